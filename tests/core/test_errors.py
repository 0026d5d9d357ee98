"""Install hints fit how seewhy was installed."""

from __future__ import annotations

import json

import pytest

from seewhy.errors import MissingExtraError, install_hint, require

INSTALLED_FROM = {
    "a package index": (None, "pip install 'seewhy[timm]'"),
    "a checkout, editable": (
        {"url": "file:///home/me/see%20why", "dir_info": {"editable": True}},
        "pip install -e '/home/me/see why[timm]'",
    ),
    "a checkout": ({"url": "file:///home/me/seewhy", "dir_info": {}}, "pip install '/home/me/seewhy[timm]'"),
    "a wheel": (
        {"url": "file:///tmp/seewhy-1.0-py3-none-any.whl", "archive_info": {"hash": "sha256=00"}},
        "pip install '/tmp/seewhy-1.0-py3-none-any.whl[timm]'",
    ),
    "a wheel on a server": (
        {"url": "https://example.org/seewhy-1.0.tar.gz", "archive_info": {}},
        "pip install 'seewhy[timm] @ https://example.org/seewhy-1.0.tar.gz'",
    ),
    "git": (
        {
            "url": "https://example.org/seewhy.git",
            "vcs_info": {"vcs": "git", "commit_id": "0f", "requested_revision": "v1"},
        },
        "pip install 'seewhy[timm] @ git+https://example.org/seewhy.git@v1'",
    ),
    "a folder of a git repository": (
        {"url": "https://example.org/all.git", "vcs_info": {"vcs": "git", "commit_id": "0f"}, "subdirectory": "seewhy"},
        "pip install 'seewhy[timm] @ git+https://example.org/all.git#subdirectory=seewhy'",
    ),
}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a distribution in front of the installed one."""

    def put(direct_url: dict | None) -> None:
        info = tmp_path / "seewhy-9.9.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: seewhy\nVersion: 9.9\n")
        if direct_url is not None:
            (info / "direct_url.json").write_text(json.dumps(direct_url))
        monkeypatch.syspath_prepend(str(tmp_path))

    return put


@pytest.mark.parametrize(("direct_url", "command"), INSTALLED_FROM.values(), ids=INSTALLED_FROM)
def test_the_hint_installs_from_where_seewhy_came(install, direct_url, command):
    install(direct_url)
    assert install_hint("timm") == command


def test_a_missing_library_is_an_error_with_the_command(install):
    install({"url": "file:///src", "dir_info": {"editable": True}})
    with pytest.raises(MissingExtraError, match=r"no_such_library is not installed; pip install -e '/src\[hf\]'$"):
        require("no_such_library", "hf")
    assert install_hint("", "--upgrade") == "pip install --upgrade -e /src"


def test_a_checkout_that_is_on_the_path_but_not_installed(monkeypatch):
    from importlib import metadata

    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert install_hint("hf").startswith("pip install -e ")
