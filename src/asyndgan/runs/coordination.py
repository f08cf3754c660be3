"""A run that is trained within a job of FLARE's server, in a federation that others have made."""

import logging
from functools import partial
from pathlib import Path
from typing import final

import torch
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.signal import Signal

from asyndgan.engines.flare.app import passed_on
from asyndgan.engines.flare.transport import Flare, Line
from asyndgan.errors import AsyndganError, Interrupted
from asyndgan.protocol import away, frame_limit
from asyndgan.recipe import Recipe
from asyndgan.runs.folder import RunFolder
from asyndgan.runs.mask_learning import beside, painted_masks
from asyndgan.runs.train import train_over
from asyndgan.texts import sha256_of

log = logging.getLogger(__name__)


@final
class Coordination(Controller):
    """Trains a run in the server's job process, in a folder that outlives the job.

    Masks are those of the finished run beside it, RUN-masks. It begins when the sites of all `keys`
    (hexadecimal digits) are there. The folder is asyndgan/runs/RUN in the server's workspace.
    """

    def __init__(self, recipe: str, run: str, keys: dict[str, str]) -> None:
        super().__init__()
        self.recipe, self.run, self.keys = recipe, run, keys

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing to do."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing to do."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Trains from the run's newest checkpoint until it is finished or the job is aborted."""
        torch.set_num_threads(1)  # see traps in docs/architecture.md
        recipe = Recipe.from_toml(self.recipe)
        root = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir())
        folder = RunFolder(root / "asyndgan" / "runs" / self.run)
        if not folder.recipe_file.exists():
            folder = RunFolder.create(folder.path, recipe)
        lines = {
            site: Line.of(self.run, self.recipe, bytes.fromhex(key), sha256_of(key))
            for site, key in self.keys.items()
        }
        sites = Flare(
            partial(passed_on, fl_ctx.get_engine()),
            lambda: {} if abort_signal.triggered else lines,
            limit=frame_limit(recipe),
        )
        try:
            while away(sites, self.keys, 1.0):
                if abort_signal.triggered:
                    return
            teachers = RunFolder(beside(folder.path))
            with folder.held():
                train_over(
                    folder, sites, sites=list(self.keys),
                    masks=painted_masks(teachers) if recipe.given_masks else None,
                    stop=lambda: abort_signal.triggered,
                    go_on="the same job, submitted again, has it go on",
                )  # fmt: skip
        except Interrupted as error:
            log.info("run %s: %s", self.run, error)
        except AsyndganError as error:
            self.system_panic(f"run {self.run}: {error}", fl_ctx)
        finally:
            sites.close()
