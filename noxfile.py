"""Every routine of the project: `nox --list` shows them, `nox -s NAME -- ARGUMENTS` runs one.

All but `wheel` run in one environment with both frameworks, that of the session `env`, which nox brings up to
date first.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "tests"]

ROOT = Path(__file__).parent
CONSTRAINTS = ("-c", str(ROOT / "constraints.txt"))
VARIABLES = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
# Else PyTorch's threads spin between operations, in the way of TensorFlow's and of other processes.
PASSIVE = {**VARIABLES, "OMP_WAIT_POLICY": "PASSIVE"}
SCRIPTS = "Scripts" if os.name == "nt" else "bin"

# Where PyPI has it, the build without CUDA libraries.
HAS_CPU_BUILD = platform.machine().lower() in ("x86_64", "amd64") and platform.system() != "Darwin"
TENSORFLOW = ("tensorflow-cpu" if HAS_CPU_BUILD else "tensorflow", "keras")
FRAMEWORKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "none": ("", ()),
    "torch": ("[torch,cli,fast]", ()),
    "tf": ("[cli,fast]", TENSORFLOW),
}
"""What a user of each framework installs: the extra of the wheel, and packages beside it."""


def install(session: nox.Session, *packages: str) -> None:
    """Install packages in the versions of constraints.txt."""
    # Uncompiled: Python imports a fraction of the files, and compiles those itself.
    session.env.update(PASSIVE)
    session.install(*CONSTRAINTS, "--no-compile", *packages)


def run(session: nox.Session, program: str, *arguments: str, variables: dict[str, str] = PASSIVE) -> None:
    """Run a program of the session `env`."""
    scripts = ROOT / ".nox" / "env" / SCRIPTS
    path = os.pathsep.join([str(scripts), os.environ["PATH"]])
    session.run(str(scripts / program), *arguments, env={**variables, "PATH": path}, external=True)


@nox.session(reuse_venv=True, default=False)
def env(session: nox.Session) -> None:
    """Bring the environment of the other sessions up to date."""
    install(session, "hatchling")
    install(session, "--no-build-isolation", ".[torch,cli,fast,dev]", *TENSORFLOW)


@nox.session(venv_backend="none", requires=["env"])
def lint(session: nox.Session) -> None:
    """Check the format, the style and the types; say all that is wrong, not only the first."""
    folders = ["tests", "parity", "examples", "benchmarks"]  # apart: each has top-level modules of its own
    failed = False
    for command in (
        ["ruff", "format", "--check"],
        ["ruff", "check"],
        ["mypy", "dualloss", "noxfile.py"],
        *(["mypy", folder] for folder in folders),
    ):
        try:
            run(session, *command)
        except CommandFailed:
            failed = True
    if failed:
        session.error("lint found something")


@nox.session(venv_backend="none", requires=["env"])
def tests(session: nox.Session) -> None:
    """Run the tests and the parity suite, on all cores."""
    run(session, "pytest", "-n", "auto", "--dist", "worksteal", *session.posargs)


@nox.session(venv_backend="none", requires=["env"])
def parity(session: nox.Session) -> None:
    """Compare every engine on this machine, bit for bit, with the golden vectors."""
    run(session, "dualloss", "parity", *session.posargs)


@nox.session(venv_backend="none", requires=["env"])
def exhaustive(session: nox.Session) -> None:
    """Check exp* and log1p* on every argument they can get."""
    run(session, "dualloss", "exhaustive", *session.posargs)


@nox.session(venv_backend="none", requires=["env"])
def gpu(session: nox.Session) -> None:
    """Compare the engines on the GPU with those on the CPU; without a GPU, those on the CPU."""
    run(session, "dualloss", "gpu", *session.posargs)


@nox.session(venv_backend="none", requires=["env"])
def triton(session: nox.Session) -> None:
    """Run the kernels of CUDA devices in Triton's interpreter; compile them for a device that need not be here."""
    # In a folder of its own: where triton is installed, torch.compile looks for devices to use it on.
    folder = ROOT / ".nox" / "triton-packages"
    options = ("--no-compile", "--no-deps", "--upgrade", "--target", str(folder))
    run(session, "python", "-m", "pip", "install", *CONSTRAINTS, *options, "triton")
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    run(session, "python", "-m", "dualloss.parity.ptx", variables={**PASSIVE, **paths})
    variables = {**PASSIVE, **paths, "TRITON_INTERPRET": "1"}
    run(session, "pytest", "tests/test_gpu.py", *session.posargs, variables=variables)


@nox.session(venv_backend="none", requires=["env"])
def demo(session: nox.Session) -> None:
    """Show the same bits: in the parity suite's total loss, then in a training in both frameworks."""
    run(session, "dualloss", "parity", "--terms", "total_loss")
    run(session, "python", "examples/same_bits.py", *session.posargs)


@nox.session(venv_backend="none", requires=["env"])
def accuracy(session: nox.Session) -> None:
    """Measure the errors against the float64 oracle."""
    run(session, "python", "benchmarks/accuracy.py", *session.posargs)


@nox.session(venv_backend="none", requires=["env"])
def terms(session: nox.Session) -> None:
    """Write docs/terms.md, the table of the terms, and docs/importing.md from the registries."""
    run(session, "python", "benchmarks/terms.py", *session.posargs)
    run(session, "python", "benchmarks/importing.py", *session.posargs)


@nox.session(venv_backend="none", requires=["env"])
def vendors(session: nox.Session) -> None:
    """Prove that imported losses are the libraries' own, over a grid of their options."""
    # Their losses need nothing but PyTorch and NumPy; the packages themselves want torchvision and more.
    packages = ("segmentation-models-pytorch", "monai")
    run(session, "python", "-m", "pip", "install", *CONSTRAINTS, "--no-compile", "--no-deps", *packages)
    run(session, "python", "-m", "dualloss.vendors.proof", *session.posargs)


@nox.session(venv_backend="none", requires=["env"])
def causes(session: nox.Session) -> None:
    """Measure how well `dualloss compare` names causes; write docs/compare.md and the table in docs/migration.md."""
    packages = ("segmentation-models-pytorch", "monai", "kornia", "kornia_rs")
    run(session, "python", "-m", "pip", "install", *CONSTRAINTS, "--no-compile", "--no-deps", *packages)
    run(session, "python", "benchmarks/compare.py", *session.posargs)


@nox.session(venv_backend="none", requires=["env"])
def bench(session: nox.Session) -> None:
    """Measure the cost against plain code, and against compositions of libraries."""
    # What is used of them needs nothing but PyTorch.
    packages = ("segmentation-models-pytorch", "kornia", "kornia_rs")
    run(session, "python", "-m", "pip", "install", *CONSTRAINTS, "--no-compile", "--no-deps", *packages)
    run(session, "python", "benchmarks/cost.py", *session.posargs)


@nox.session(reuse_venv=False, default=False)
@nox.parametrize("framework", list(FRAMEWORKS))
def wheel(session: nox.Session, framework: str) -> None:
    """Install the wheel as a user of one framework does, in a new environment; run the README's examples."""
    install(session, "build", "hatchling")
    folder = Path(session.create_tmp()).resolve()
    session.run("python", "-m", "build", "--no-isolation", "--outdir", str(folder), silent=True)
    built = max(folder.glob("*.whl"), key=os.path.getmtime)
    extra, beside = FRAMEWORKS[framework]
    install(session, f"{built}{extra}", *beside)
    code = examples(framework)
    session.chdir(folder)  # away from the checkout, which Python would import first
    session.run("python", "-c", "import dualloss; print('dualloss', dualloss.__version__, dualloss.__file__)")
    if framework != "none":
        (folder / "examples.py").write_text(code)
        session.run("python", "examples.py")
        loss = "torch.nn:MSELoss()" if framework == "torch" else "keras.losses:MeanSquaredError()"
        session.run("dualloss", "compare", loss, loss, "--targets", "values", "--inputs", "values")
        # Without torch.compile, which takes minutes: the tests run it.
        session.run("dualloss", "parity", "--terms", "total_loss", "--engines", "numpy,eager,graph,XLA")


def examples(framework: str) -> str:
    """The code of the README after the lines `<!-- example: FRAMEWORK -->`."""
    pattern = rf"^<!-- example: {framework} -->\n```python\n(.*?)^```"
    found = re.findall(pattern, (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    if not found and framework != "none":
        raise ValueError(f"README.md has no example for {framework}")
    return "\n".join(found)
