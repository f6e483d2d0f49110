"""Where compiled programs are kept, so that a run that goes on does not compile them again."""

from collections.abc import Mapping
from pathlib import Path

_WORTH_KEEPING_SECONDS = 1.0


def cache_folder(
    flag: str | None, environment: Mapping[str, str], *, shared: Path | None
) -> Path | None:
    """The folder that a flag, the run or the user's habits name.

    None if the flag is "off", or JAX's own variable already names one.

    Args:
      flag: of the command line.
      environment: of the process.
      shared: a folder on a disk that all processes of a run have, if there are several: JAX lets
        the first of them write, and the others read.
    """
    if flag == "off" or (flag is None and "JAX_COMPILATION_CACHE_DIR" in environment):
        return None
    if flag:
        return Path(flag)
    if shared is not None:
        return shared / "compiled"
    home = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "jaxqa" / "compiled"


def keep_compiled(folder: Path | None, *, on_cpu: bool) -> None:
    """Let JAX keep there what took long to compile; every process of a run may use one folder.

    Call it after the processes have met, because it looks at the devices. Programs for the CPU,
    which compile soon and are loaded with many words about the machine, are kept only if `on_cpu`.
    """
    import jax  # late: a wrong argument is answered before

    if folder is not None and (on_cpu or jax.default_backend() != "cpu"):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING_SECONDS)
