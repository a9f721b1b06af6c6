"""Blocks without garbage collections."""

import gc

import pytest

from runstore.core.garbage import without_collections


def test_collections_go_on_after_a_block_without_them_even_if_it_fails() -> None:
    with pytest.raises(ZeroDivisionError), without_collections():
        1 / gc.isenabled()
    assert gc.isenabled()


def test_a_block_within_another_does_not_let_collections_go_on() -> None:
    with without_collections():
        with without_collections():
            pass
        assert not gc.isenabled()
