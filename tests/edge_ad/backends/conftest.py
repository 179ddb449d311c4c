"""Where the GPU can be pretended (tests/fake_gpu), the contract of back-ends is kept on it too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fake_gpu import FakeGpu, missing


@pytest.fixture(scope="session", autouse=True)
def pretended_gpu(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For this process and for those that build an engine for it."""
    if missing() is not None:
        yield
        return
    gpu: FakeGpu = request.getfixturevalue("fake_gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_DIRECTORY", str(tmp_path_factory.mktemp("state")))
        for name, value in gpu.environment().items():
            patch.setenv(name, value)
        yield
