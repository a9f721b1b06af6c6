"""The agent's tool. It knows nothing of approvals: `runstore.toml` demands them."""

from strands import tool


@tool
def pay(order: str) -> str:
    """Pay an order.

    Args:
        order: What to pay, and to whom.
    """
    return f"paid: {order}"
