"""The sweep: what it plans, and the real command, killed and started again."""

import pytest

from configs import digits
from osed_jax.commands.sweep import planned
from osed_jax.config.build import check, method_name
from osed_jax.errors import UserError
from osed_jax.files import records
from tests.command_line import SMALL, run_killed, run_well

FLAGS = (
    "--config=configs/digits.py",
    "--mode=sweep",
    *SMALL,
    "--config.sweep.seeds=0,1",
    "--config.sweep.methods=open",
)


def plan(tmp_path, **changes):
    config = digits.get_config()
    config.oversampling.generated_dir = str(tmp_path)
    config.sweep.update({"seeds": (3, 5), **changes})
    return planned(check(config), tmp_path)


def test_every_method_with_every_seed_forked_from_erm(tmp_path):
    runs = plan(tmp_path, methods="osed,ros,drs,erm")
    names = [str(path.relative_to(tmp_path)) for path, _ in runs]
    assert names == [f"{m}/seed_{s}" for s in (3, 5) for m in ("erm", "osed", "ros", "drs")]
    by_name = {name: config for name, (_, config) in zip(names, runs)}
    modes = {name.split("/")[0]: c["oversampling"]["mode"] for name, c in by_name.items()}
    assert modes == {"erm": "none", "osed": "generated", "ros": "resample", "drs": "resample"}
    assert by_name["osed/seed_5"]["init"]["fork_from"] == str(tmp_path / "erm" / "seed_5")
    assert by_name["osed/seed_5"]["seed"] == 5
    assert by_name["drs/seed_3"]["oversampling"]["start_epoch"] == 48
    for alone in ("erm/seed_3", "ros/seed_3"):
        assert by_name[alone]["init"]["fork_from"] == ""
    assert by_name["ros/seed_3"]["oversampling"]["start_epoch"] == 0


def test_what_serves_replacing_alone_is_given_to_those_that_replace(tmp_path):
    config = digits.get_config("osed")
    replacing = {"replace_in": "all", "real_only_epochs": 2, "noise_share": 0.25}
    config.oversampling.update({**replacing, "generated_norm": "aux"})
    config.oversampling.generated_dir = str(tmp_path)
    config.sweep.update({"seeds": (0,), "methods": "erm,ros,drs,open,osed"})
    runs = planned(check(config), tmp_path)
    over = {path.parent.name: run["oversampling"] for path, run in runs}
    fields = {name: [o[field] for field in replacing] for name, o in over.items()}
    nothing = ["tail", 0, 0.0]
    assert fields["erm"] == fields["ros"] == fields["drs"] == nothing
    assert fields["open"] == ["all", 2, 0.0] and fields["osed"] == ["all", 2, 0.25]
    assert over["osed"]["generated_norm"] == "aux", "what the user chose stays"


def test_fill_starts_at_once_in_the_shared_norm_unless_a_person_says_otherwise(tmp_path):
    ((path, run),) = plan(tmp_path, methods="fill", seeds=(0,))
    over = run["oversampling"]
    assert path == tmp_path / "fill" / "seed_0" and run["init"]["fork_from"] == ""
    assert (over["mode"], over["start_epoch"]) == ("generated", 0)
    assert (over["generated_norm"], over["replace_ratio"]) == ("shared", pytest.approx(2 / 3))
    config = digits.get_config()
    config.oversampling.update({"generated_dir": str(tmp_path), "generated_norm": "aux"})
    config.oversampling.replace_ratio = 0.5
    config.sweep.update({"methods": "fill,osed", "seeds": (0,)})
    norms = {p.parent.name: r["oversampling"] for p, r in planned(check(config), tmp_path)}
    assert norms["fill"]["generated_norm"] == norms["osed"]["generated_norm"] == "aux"
    assert norms["fill"]["replace_ratio"] == norms["osed"]["replace_ratio"] == 0.5


def test_methods_of_other_losses_and_mixing_have_their_own_settings(tmp_path):
    runs = plan(tmp_path, methods="drs,la,ldam_drw,mixup_drw", seeds=(0,))
    found = {path.parent.name: run for path, run in runs}
    assert list(found) == ["erm", "drs", "la", "ldam_drw", "mixup_drw"]
    fields = {
        name: (
            run["loss"]["name"],
            run["loss"]["class_weights"],
            run["model"]["cosine_scale"],
            run["augment"]["mix"],
        )
        for name, run in found.items()
    }
    plain = ("cross_entropy", "none", 0.0, "none")
    assert fields["erm"] == fields["drs"] == plain
    assert fields["la"] == ("logit_adjustment", *plain[1:])
    assert fields["ldam_drw"] == ("ldam", "deferred", 30.0, "none")
    assert fields["mixup_drw"] == ("cross_entropy", "deferred", 0.0, "mixup")
    for name in ("la", "ldam_drw", "mixup_drw"):
        assert (
            found[name]["oversampling"]["mode"] == "none" and not found[name]["init"]["fork_from"]
        )
        assert method_name(found[name]) == name


def test_a_sweep_refuses_a_method_that_its_settings_turn_into_another(tmp_path):
    config = digits.get_config("la")
    config.sweep.methods = "erm,la"
    with pytest.raises(UserError, match="the method erm would be la"):
        planned(check(config), tmp_path)
    config = digits.get_config("fill")
    config.loss.name = "logit_adjustment"
    config.oversampling.generated_dir = str(tmp_path)
    config.sweep.update({"methods": "fill", "seeds": (0,)})
    ((_, run),) = planned(check(config), tmp_path)
    assert run["loss"]["name"] == "logit_adjustment" and method_name(run) == "fill"


def test_erm_is_trained_where_a_deferred_method_needs_it(tmp_path):
    assert [p.parent.name for p, _ in plan(tmp_path, methods="open", seeds=(0,))] == ["erm", "open"]
    assert [p.parent.name for p, _ in plan(tmp_path, methods="ros", seeds=(0,))] == ["ros"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": "erm,oped"}, "sweep.methods is 'erm,oped'; it must be different ones of erm"),
        ({"methods": "erm,erm"}, "different ones"),
        ({"seeds": ()}, "sweep.seeds is .*at least one"),
        ({"seeds": (1, 1)}, "different whole numbers"),
    ],
)
def test_wrong_sweeps_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        plan(tmp_path, **changes)


def test_missing_images_are_noticed_before_anything_is_trained(tmp_path):
    config = digits.get_config()
    config.oversampling.generated_dir = ""
    with pytest.raises(UserError, match="generated_dir is empty"):
        planned(check(config), tmp_path)
    config.oversampling.start_epoch = 0
    with pytest.raises(UserError, match="drs would be the same as ros"):
        planned(check(config), tmp_path)


def test_a_killed_sweep_goes_on_skips_what_is_done_and_compares(tmp_path):
    arguments = (*FLAGS, f"--workdir={tmp_path / 'all'}")
    run_killed(*arguments, at="osed_jax.commands.sweep:train", call=3)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("summary.json")}
    assert len(before) == 2, "ERM and OPeN of the first seed"
    printed = run_well(*arguments)
    assert "run 4 of 4" in printed and printed.count("is finished already") == 2
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in before.items())
    assert "| open vs erm " in printed
    assert (tmp_path / "all" / "comparison" / "comparison.html").is_file()
    summary = records.read_json(tmp_path / "all" / "open" / "seed_1" / "summary.json")
    assert summary["forked_from"] == str(tmp_path / "all" / "erm" / "seed_1")
