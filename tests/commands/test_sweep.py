"""The sweep: what it plans, and the real command, killed and started again."""

import pytest

from configs import digits
from osed_jax.commands.sweep import planned
from osed_jax.config.build import method_of
from osed_jax.config.by_method import MethodConfigs
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


def asked(tmp_path, **given):
    """What --config=configs/digits.py and flags of these fields ask for; __ for the dots."""
    flags = {name.replace("__", "."): value for name, value in given.items()}
    store = {"oversampling.generated_dir": str(tmp_path), "sweep.seeds": (3, 5)}
    return MethodConfigs(digits.get_config, {**store, **flags})


def plan(tmp_path, **given):
    return planned(asked(tmp_path, **given), tmp_path)[0]


def test_every_method_with_every_seed_forked_from_erm(tmp_path):
    runs = plan(tmp_path, sweep__methods="osed,ros,drs,erm")
    names = [str(path.relative_to(tmp_path)) for path, _ in runs]
    assert names == [f"{m}/seed_{s}" for s in (3, 5) for m in ("erm", "osed", "ros", "drs")]
    by_name = {name: config for name, (_, config) in zip(names, runs)}
    modes = {name.split("/")[0]: c.oversampling.mode for name, c in by_name.items()}
    assert modes == {"erm": "none", "osed": "generated", "ros": "resample", "drs": "resample"}
    assert by_name["osed/seed_5"].init.fork_from == str(tmp_path / "erm" / "seed_5")
    assert by_name["osed/seed_5"].seed == 5
    assert by_name["drs/seed_3"].oversampling.start_epoch == 48
    for alone in ("erm/seed_3", "ros/seed_3"):
        assert by_name[alone].init.fork_from == ""
    assert by_name["ros/seed_3"].oversampling.start_epoch == 0


def test_a_given_field_reaches_the_methods_that_use_it_and_the_sweep_says_which(tmp_path):
    given = {
        "oversampling__replace_in": "all",
        "oversampling__real_only_epochs": 2,
        "oversampling__noise_share": 0.25,
        "oversampling__generated_norm": "aux",
        "loss__tau": 0.5,
    }
    configs = asked(tmp_path, sweep__methods="erm,drs,open,osed,la", **given)
    runs, notes = planned(configs, tmp_path)
    over = {path.parent.name: config.oversampling for path, config in runs}
    fields = {n: (o.replace_in, o.real_only_epochs, o.noise_share) for n, o in over.items()}
    assert fields["erm"] == fields["drs"] == fields["la"] == ("tail", 0, 0.0)
    assert fields["open"] == ("all", 2, 0.0) and fields["osed"] == ("all", 2, 0.25)
    assert over["osed"].generated_norm == "aux"
    assert {c.loss.tau for p, c in runs if p.parent.name == "la"} == {0.5}
    assert "config.loss.tau=0.5 is used by la alone" in notes
    assert "config.oversampling.replace_in='all' is used by open, osed alone" in notes


def test_what_is_given_wins_over_the_method_and_the_sweep_says_so(tmp_path):
    ((path, config), _) = plan(tmp_path, sweep__methods="fill")
    over = config.oversampling
    assert path == tmp_path / "fill" / "seed_3" and config.init.fork_from == ""
    assert (over.mode, over.start_epoch, over.generated_norm) == ("generated", 0, "shared")
    assert over.replace_ratio == pytest.approx(2 / 3)
    third = {"oversampling__replace_ratio": 1 / 3}  # the default of the field, given
    runs, notes = planned(asked(tmp_path, sweep__methods="fill,osed", **third), tmp_path)
    ratios = {p.parent.name: c.oversampling.replace_ratio for p, c in runs}
    assert ratios["fill"] == ratios["osed"] == 1 / 3
    assert any("as given; the method fill would set 0.666" in note for note in notes)
    runs, notes = planned(
        asked(tmp_path, sweep__methods="erm,la", loss__name="balanced_softmax"), tmp_path
    )
    assert {path.parent.name for path, _ in runs} == {"erm"}
    assert "la is left out: with what is given it is the same as erm" in notes


def test_methods_of_other_losses_and_mixing_have_their_own_settings(tmp_path):
    runs = plan(tmp_path, sweep__methods="drs,la,ldam_drw,mixup_drw", sweep__seeds=(0,))
    by_method = {path.parent.name: config for path, config in runs}
    assert list(by_method) == ["erm", "drs", "la", "ldam_drw", "mixup_drw"]
    fields = {
        name: (c.loss.name, c.loss.class_weights, c.model.cosine_scale, c.augment.mix)
        for name, c in by_method.items()
    }
    plain = ("cross_entropy", "none", 0.0, "none")
    assert fields["erm"] == fields["drs"] == plain
    assert fields["la"] == ("logit_adjustment", *plain[1:])
    assert fields["ldam_drw"] == ("ldam", "deferred", 30.0, "none")
    assert fields["mixup_drw"] == ("cross_entropy", "deferred", 0.0, "mixup")
    for name in ("la", "ldam_drw", "mixup_drw"):
        config = by_method[name]
        assert config.oversampling.mode == "none" and not config.init.fork_from
        assert method_of(config) == name


def test_erm_is_trained_where_a_deferred_method_needs_it(tmp_path):
    def names(methods):
        return [p.parent.name for p, _ in plan(tmp_path, sweep__methods=methods, sweep__seeds=(0,))]

    assert names("open") == ["erm", "open"]
    assert names("ros") == ["ros"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sweep__methods": "erm,oped"}, "sweep.methods is 'erm,oped'; it must be different ones"),
        ({"sweep__methods": "erm,erm"}, "different ones"),
        ({"sweep__seeds": ()}, "sweep.seeds is .*at least one"),
        ({"sweep__seeds": (1, 1)}, "different whole numbers"),
        (
            {"sweep__methods": "erm,ros", "loss__tau": 0.5},
            "loss.tau is 0.5, but none of erm, ros uses it: .*loss.name=logit_adjustment only",
        ),
    ],
)
def test_wrong_sweeps_are_refused(tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        plan(tmp_path, **given)


def test_methods_that_are_the_same_are_trained_once(tmp_path):
    given = {"sweep__methods": "ros,drs", "oversampling__start_epoch": 0}
    runs, notes = planned(asked(tmp_path, **given), tmp_path)
    assert {path.parent.name for path, _ in runs} == {"ros"}
    assert "drs is left out: with what is given it is the same as ros" in notes


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
