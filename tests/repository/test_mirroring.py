"""The tests of a module are found where the module is: `tests` has the folders of the package."""

from tests.kit.pages import ROOT, SOURCE

TESTS = ROOT / "tests"
ELSEWHERE = {
    "core/ports",  # tests/contracts, against every implementation
    "migrations/versions",  # tests/migrations, for a database of each release
}


def test_each_folder_of_the_package_has_a_folder_of_tests() -> None:
    folders = {path.parent.relative_to(SOURCE) for path in SOURCE.rglob("*.py")}
    untested = {str(folder) for folder in folders if not any((TESTS / folder).glob("test_*.py"))}
    assert untested == ELSEWHERE


def test_a_test_file_at_the_top_is_of_a_module_at_the_top() -> None:
    modules = {f"test_{path.name}" for path in SOURCE.glob("*.py")}
    assert {path.name for path in TESTS.glob("test_*.py")} <= modules
