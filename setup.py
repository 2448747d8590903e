"""Packaging of the five packages and their commands."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGES = ["configs", "robot_bridge", "data_collection", "ghvae_core", "planner"]

MODEL = ["torch>=2.10", "safetensors>=0.5", "tensorboard>=2.18"]
SIMULATION = ["mujoco>=3.17,<5"]
LEROBOT = ["pyarrow>=15"]  # for writing LeRobot's files; LeRobot itself is not needed
FRANKY = ["franky-control>=2.0"]  # --robot franka_direct
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.29"]
DEVELOPMENT = [
    "hypothesis>=6.100",
    "mypy>=1.14",
    "pytest>=8.3",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
    "scikit-image>=0.24",
    "setuptools>=77",  # builds the wheel that tests/test_packaging.py installs
    "types-PyYAML>=6.0",
    "webdataset>=1.0",  # reads the exported shards
]

setup(
    name="ghvae-foresight",
    version="0.1.0",  # raised by a release; episodes record it
    description="Visual foresight for a Franka arm with Greedy Hierarchical VAEs: collect, train, predict, act",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=[p for name in PACKAGES for p in (name, f"{name}.*")]),
    py_modules=["ghvae_foresight"],
    package_data={
        "configs": ["py.typed", "**/*.yaml", "goals/*.png", "systemd/*.service"],
        "data_collection": ["py.typed", "**/*.j2"],
        "ghvae_core": ["py.typed", "checkpoints/*/*", "**/*.j2"],
        "planner": ["py.typed", "**/*.j2"],
        "robot_bridge": ["py.typed", "ros/definitions/**/*"],
    },
    install_requires=[
        "av>=14.0",
        "h5py>=3.12",
        "jinja2>=3.1",
        "matplotlib>=3.9",
        "msgpack>=1.2.1",
        "numpy>=1.26",
        "opencv-python-headless>=4.10",  # the same cv2 without its windows, which would need libGL everywhere
        "pillow>=11.0",
        "prometheus-client>=0.21",
        "psutil>=6.0",
        "pydantic>=2.10",
        "pyyaml>=6.0",
        "pyzmq>=26.2",
        "rich>=13.9",
        "scipy>=1.14",
        "typer>=0.15",
    ],
    extras_require={
        "model": MODEL,
        "simulation": SIMULATION,
        "lerobot": LEROBOT,
        "docs": DOCS,
        "all": MODEL + SIMULATION + LEROBOT,
        "dev": MODEL + SIMULATION + LEROBOT + DEVELOPMENT + DOCS,
        "franky": FRANKY,
    },
    entry_points={
        "console_scripts": [
            f"{name}=ghvae_foresight:{name}"
            for name in (
                *("run_collection", "run_data", "run_finetune", "run_distance", "run_evaluation", "run_server"),
                *("run_keys", "run_doctor", "run_goal", "run_task", "run_trials"),
            )
        ]
    },
)
