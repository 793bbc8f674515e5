"""The real commands that generate and verify, with a tiny random model."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import digits
from osed_jax.commands.filter import filter as filter_store
from osed_jax.commands.generate import generate, wanted_counts
from osed_jax.commands.train import train
from osed_jax.config.build import check
from osed_jax.errors import UserError
from osed_jax.evaluation.classifier import load_classifier
from osed_jax.runtime.sharding import make_mesh
from osed_jax.store.checking import problems
from osed_jax.store.records import read_lines
from osed_jax.training.step import make_eval_step
from tests.cheap_store import tree
from tests.command_line import run, run_killed, run_well
from tests.oracles import make_formats_oracle as formats
from tests.oracles import make_stable_diffusion_oracle as oracle

CONFIG = "--config=configs/digits.py:osed"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    oracle.write_small_model_of_today(folder)
    return folder


def settings(store, model, **changes):
    fields = {
        "dataset.num_max": 12,
        "dataset.imbalance_ratio": 3,
        "oversampling.generated_dir": store,
        "generation.model": model,
        "generation.revision": "",
        "generation.steps": 1,
        "generation.batch_size": 2,
        **changes,
    }
    return [CONFIG, *(f"--config.{name}={value}" for name, value in fields.items())]


def config_of(store, model, **changes):
    config = digits.get_config("osed")
    config.dataset.update({"num_max": 12, "imbalance_ratio": 3.0})
    config.oversampling.generated_dir = str(store)
    config.generation.update({"model": str(model), "revision": "", "steps": 1, "batch_size": 8})
    config.generation.update(changes)
    return config


def test_a_killed_command_goes_on_and_ends_with_the_same_store(tmp_path, model):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    printed = run_well("--mode=generate", *settings(alone, model))
    assert "0 of 50 images are there; 50 to make" in printed and "9: 8 images" in printed
    sheet = tmp_path / "alone.contact_sheet.png"
    with Image.open(sheet) as file:
        assert file.height > 9 * 64
    store = "osed_jax.store.writing:Store"
    run_killed("--mode=generate", *settings(killed, model), at=f"{store}.add", call=8)
    assert any(p.startswith("unfinished: the process that") for p in problems(killed))
    printed = run_well("--mode=generate", *settings(killed, model))
    assert "7 of 50 images are there" in printed
    assert "warning: steps=1, and timestep_spacing" in printed
    assert tree(killed) == tree(alone)
    assert "is complete: 50 images" in run_well("--mode=verify", *settings(killed, model))


def test_records_say_how_an_image_was_made(tmp_path, model):
    own = tmp_path / "prompts.json"
    own.write_text(json.dumps({"9": "nine"}))
    config = config_of(
        tmp_path / "store",
        model,
        prompts_file=str(own),
        templates=("a {class}", "the {class}"),
        keep_full_size=True,
        seed=5,
        count="2",
        lora=str(formats.write_lora("kohya", tmp_path / "lora.safetensors")),
        lora_scale=0.5,
        embeddings=str(formats.write_words(tmp_path / "word.safetensors")),
        negative_prompt=formats.WORD,
        decoder=str(formats.write_tiny(tmp_path / "tiny")),
    )
    generate(check(config))
    records = read_lines(tmp_path / "store" / "metadata.jsonl")[0]
    assert [r["prompt"] for r in records[-4:]] == ["a 8", "the 8", "a nine", "the nine"]
    expected = {"seed": 5, "steps": 1, "scheduler": "dpmsolver++", "image_size": 16, "size": 8}
    assert len(records) == 20 and expected.items() <= records[0].items()
    assert records[0]["revision"].startswith("sha256:")
    lora = hashlib.sha256((tmp_path / "lora.safetensors").read_bytes()).hexdigest()
    assert records[0]["lora"] == f"sha256:{lora}" and records[0]["lora_scale"] == 0.5
    assert all(records[0][name].startswith("sha256:") for name in ("decoder", "embeddings"))
    config.generation.lora_scale = 1.0
    with pytest.raises(UserError, match=r"settings.lora_scale: 0.5 -> 1.0"):
        generate(check(config))
    config.generation.lora_scale = 0.5
    for folder, side in (("store", 8), ("store.full_size", 16)):
        with Image.open(tmp_path / folder / records[3]["file_name"]) as file:
            assert file.size == (side, side)
    (model / "tokenizer" / "added_tokens.json").write_text("{}")  # another model, at the same path
    with pytest.raises(UserError, match=r"settings.revision: 'sha256:"):
        generate(check(config))
    (model / "tokenizer" / "added_tokens.json").unlink()
    generate(check(config))


def test_a_trained_classifier_judges_images(tmp_path, model):
    """Its rank is that of the evaluation's own step; images that it rejects are replaced."""
    config = config_of(tmp_path / "store", model)
    config.oversampling.mode = "none"
    config.train.num_epochs = 1
    config.report.enabled = False
    train(check(config), tmp_path / "run")
    judged = config.copy_and_resolve_references()
    judged.generation.update(
        classifier_workdir=str(tmp_path / "run"),
        classifier_top_k=9,
        max_feature_distance=50.0,
        count="2",
        max_attempts=20.0,
    )
    generate(check(judged))
    kept, rejected = (
        read_lines(tmp_path / "store" / f"{n}.jsonl")[0] for n in ("metadata", "rejected")
    )
    assert [r["label"] for r in kept] == sorted(2 * list(range(10)))
    assert rejected and {r["reason"] for r in rejected} == {"not recognised"}
    assert all(r["classifier_rank"] == 10 for r in rejected)
    classifier = load_classifier(tmp_path / "run", make_mesh())
    step = jax.jit(make_eval_step(model=classifier.model, augmentation=classifier.augmentation))
    images = [np.asarray(Image.open(tmp_path / "store" / r["file_name"])) for r in kept]
    logits, _ = step(classifier.state, jnp.stack(images))
    order = np.argsort(-np.asarray(logits), axis=1)
    ranks = [1 + order[i].tolist().index(r["label"]) for i, r in enumerate(kept)]
    assert ranks == [r["classifier_rank"] for r in kept]
    assert all(r["feature_distance"] > 0 for r in kept)
    settings = json.loads((tmp_path / "store" / "store.json").read_text())["settings"]
    named = settings["filters"]["classifier"]
    assert named == f"sha256:{classifier.weights_sha256()}" and "/" not in named
    # The same judge, asked to be stricter, of images that are there.
    strict = max(min(ranks[i : i + 2]) for i in range(0, 20, 2))  # one of each class at least
    judged.generation.update(classifier_top_k=strict, filtered_dir=str(tmp_path / "selected"))
    verdicts = filter_store(check(judged))
    for label, name in enumerate(classifier.facts["class_names"]):
        passed = sum(rank <= strict for rank in ranks[2 * label : 2 * label + 2])
        assert verdicts[name]["kept"] == passed
        assert verdicts[name].get("not recognised", 0) == 2 - passed
    judged.generation.filtered_dir = str(tmp_path / "again")
    # With another validation_fraction alone the canonical subset, and so the judge, is the same.
    judged.dataset.update({"validation_fraction": 0.2, "imbalance_ratio": 4.0})
    for do in (generate, filter_store):
        with pytest.raises(UserError, match="so it may have seen the validation images"):
            do(check(judged))
    judged.dataset.update({"validation_fraction": 0.0, "imbalance_ratio": 3.0})
    judged.generation.classifier_workdir = str(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"is .* a work directory"):
        generate(check(judged))


def test_a_generator_that_may_have_seen_the_validation_images_is_refused(tmp_path, model):
    def adapted(folder, base):
        """What --mode=finetune keeps there, among others."""
        kept = {"dataset": check(config)["dataset"], "finetune": {"base": str(base)}}
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(kept))

    config = config_of(tmp_path / "store", model, count="1")
    adapted(model, "miniature")
    config.dataset.validation_fraction = 0.2
    with pytest.raises(UserError, match=r"validation_fraction: 0.0 -> 0.2.*may have seen"):
        generate(check(config))
    adapted(tmp_path / "second", model)
    config.generation.model = str(tmp_path / "second")
    with pytest.raises(UserError, match="may have seen"):
        generate(check(config))
    assert not (tmp_path / "store").exists()
    config.generation.model = str(model)
    adapted(model, "miniature")
    config.dataset.imbalance_ratio = 2.0  # of the others; the same images are held out
    generate(check(config))
    assert len(read_lines(tmp_path / "store" / "metadata.jsonl")[0]) == 10


def test_counts_per_class():
    config = check(digits.get_config("erm"))
    counts = [100, 50, 10]
    assert wanted_counts(config, counts) == [0, 50, 90]
    config.generation.count = "7"
    assert wanted_counts(config, counts) == [7, 7, 7]
    config.generation.count = "replace_ratio"
    config.train.num_epochs, config.oversampling.start_epoch = 10, 9
    config.oversampling.replace_ratio = 0.5
    # One epoch of 160 draws, 53.3 a class, of which 0, 1/4 and 9/20 are replaced.
    assert wanted_counts(config, counts) == [0, 14, 24]
    config.oversampling.noise_share = 0.5
    assert wanted_counts(config, counts) == [0, 7, 12]
    config.oversampling.start_epoch = 0
    assert wanted_counts(config, counts) == [0, 50, 90], "never more than a balance takes"
    config.oversampling |= {"start_epoch": 7, "real_only_epochs": 2, "replace_in": "all"}
    assert wanted_counts(config, counts) == [14] * 3, "one epoch, a quarter of 53.3 in each class"
    config.generation.count = "balance"
    with pytest.raises(UserError, match="makes no image of the most frequent class, but"):
        wanted_counts(config, counts)


def test_a_run_shows_about_as_many_images_as_noise_ratio_counts():
    from osed_jax.batches.plan import balanced_plan, replace_probability
    from osed_jax.kinds import Kind

    config = check(digits.get_config("erm"))
    config.train.num_epochs, config.oversampling.start_epoch = 60, 59
    counts = (1000, 400, 100)
    config.generation.count = "replace_ratio"
    label = np.repeat(np.arange(3), counts)
    plan = balanced_plan(
        seed=0,
        epoch=59,
        label=label,
        generated_label=np.arange(3),
        replace_prob=replace_probability(counts, config.oversampling.replace_ratio),
        noise_share=0.0,
        batch_size=100,
    )
    shown = np.bincount(plan.label[plan.kind == Kind.GENERATED], minlength=3)
    np.testing.assert_allclose(wanted_counts(config, counts), shown, atol=30)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": "many"}, "count is 'many'; it must be balance, replace_ratio or a number"),
        ({"templates": ("a cat",)}, r"templates .* at least one text with \{class\}"),
        ({"process_index": 2, "process_count": 2}, "it must be less than 2"),
        ({"negative_prompt": "dull", "guidance_scale": 1.0}, "no effect without guidance"),
        ({"classifier_top_k": 1}, "classifier_workdir is used by classifier_top_k"),
        ({"image_size": 30}, "image_size=30; it must be a multiple of 4"),
        ({"revision": "v2"}, "revision='v2' with the local folder"),
        ({"prompts_file": "no.json"}, "prompts_file is no.json, which cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_no_store(tmp_path, model, changes, message):
    with pytest.raises(UserError, match=message):
        generate(check(config_of(tmp_path / "store", model, **changes)))
    assert not (tmp_path / "store").exists()


def test_the_commands_need_a_folder():
    config = digits.get_config("erm")
    config.oversampling.generated_dir = ""
    with pytest.raises(UserError, match="generated_dir is empty; give the folder"):
        generate(check(config))
    done = run("--mode=verify", CONFIG, "--config.oversampling.generated_dir=/nowhere")
    assert done.returncode == 2 and done.stderr.startswith("error: /nowhere has no store.json")
