"""--mode=verify: checks every hash, count and file of a store."""

from osed_jax.config.schema import Config
from osed_jax.errors import UserError
from osed_jax.experiment import loading
from osed_jax.runtime.console import say
from osed_jax.store.checking import problems
from osed_jax.store.reading import STORE_FILE
from osed_jax.store.records import (
    METADATA,
    read_lines,
)


def verify(config: Config) -> None:
    """Prints all problems of `config.oversampling.generated_dir`, one per line.

    Raises:
      UserError: if something is wrong, or there is no store.
    """
    folder = loading.generated_dir(config)
    if not (folder / STORE_FILE).is_file():
        raise UserError(
            f"{folder} has no {STORE_FILE}, so it is not a store of generated images; give "
            "the folder of the store in config.oversampling.generated_dir"
        )
    wrong = problems(folder)
    for problem in wrong:
        say(problem)
    if wrong:
        raise UserError(
            f"{folder} has {len(wrong):,} problems, named above; remove the files named as "
            "changed or unlisted, then run --mode=generate, which makes missing images again"
        )
    total = len(read_lines(folder / METADATA)[0])
    say(f"{folder} is complete: {total:,} images, as many as wanted, each with its sha256")
