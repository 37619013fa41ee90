"""Training and decoding compiled for TPUs that are not there: that they compile, and what they may cost.

What is compiled is compiled once for all tests, by libtpu in a process of its own. Bounds are the figures of
today, a little rounded up: a change that lowers them lowers these numbers too.
"""

import fcntl
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import asdict

import jax
import pytest

from midigen_jax import rows
from midigen_jax.bench import compile as compiling
from midigen_jax.bench import worker
from midigen_jax.bench.compile import Asked, Program, check_compiler, compile_all
from midigen_jax.bench.compiled import lower_train
from midigen_jax.bench.figures import LARGE, Figures, Memory, from_json, in_words, measure, rows_of
from midigen_jax.bench.hlo import Module, Shape
from midigen_jax.bench.schedules import program_bundles, read_schedule, read_schedules
from midigen_jax.bench.targets import CHIPS, find_target, known_targets
from midigen_jax.cli import main
from midigen_jax.config import Config
from midigen_jax.errors import InputError
from midigen_jax.model.network import Network
from midigen_jax.vocab.note import NoteVocabulary

# The default model on one v5e: 2 x 256, 16 rows of 256 events, float32. A train step with the kernels for
# TPUs, which XLA's cycles leave out, and with the scan: kernels, those in loops, cycles, temporaries.
STEP = {"train": (400, 0, 1_320_000, 1_000_000), "train scan": (8_200, 7_680, 6_600_000, 15_000_000)}
EVENT_KERNELS, EVENT_CYCLES = 60, 73_000  # of an event of 64 pieces
FILTERED_CYCLES = 95_000  # of the same with all filters and constraints
TEMPORARIES = 15_000_000  # of any program here

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu, which compiles for TPUs, is not installed: pip install 'midigen-jax[aot]'",
)

TINY: dict[str, object] = {
    "model.width": 8,
    "model.pitch_embedding": 4,
    "model.duration_embedding": 4,
    "model.blocks": "lstm,pooled",
    "batch.rows": 32,
    "batch.length": 8,
}
ALL_CONTEXT: dict[str, object] = {
    "model.context.place": True,
    "model.context.meters": [48],
    "model.context.previous": True,
    "model.context.lags": [12],
    "model.context.relative": [12],
    "model.context.intervals": True,
    "model.context.slices": 8,
}
MULTIHEAD: dict[str, object] = {"model.blocks": ["lstm", "lstm", "multihead(window=256, values=events)"]}
BLOCKS: dict[str, dict[str, object]] = {
    "bare": {"model.blocks": ["lstm"], "model.heads": "independent"},
    "window": {
        "model.blocks": ["lstm", "pooled(window=3)"],
        "model.compute_dtype": "bfloat16",
        "batch.stream": True,
    },
    "context": ALL_CONTEXT
    | {
        "model.blocks": ["lstm", "multihead(heads=2, window=4, values=events)"],
        "model.recurrent_dropout": 0.1,
        "model.compute_dtype": "bfloat16",
        "batch.before": 4,
    },
}

# By target, so that one process compiles all that a target is asked for; the first ones are not tiny.
PROGRAMS: dict[str, dict[str, Program]] = {
    "v5e real": {
        "train": Program(),
        "train scan": Program(
            settings={"model.blocks": ["lstm(backend=scan)", "lstm(backend=scan)", "pooled"]}
        ),
        "decode": Program(pieces=64),
        "decode filters": Program(pieces=64, filters=True),
        "decode multihead": Program(settings=MULTIHEAD, pieces=32),
    },
    "v5e": {
        **{f"train {name}": Program(settings=TINY | block) for name, block in BLOCKS.items()},
        **{f"decode {name}": Program(settings=TINY | block, pieces=8) for name, block in BLOCKS.items()},
        "train article": Program("article", TINY),
        "decode article": Program("article", TINY, 1),
        "decode filters": Program(settings=TINY, pieces=8, filters=True),
    },
    "v5e:4x8": {f"train {name}": Program(settings=TINY | BLOCKS[name]) for name in ("window", "context")},
    "tpu7x": {
        "train context": Program(settings=TINY | BLOCKS["context"]),
        "decode context": Program(settings=TINY | BLOCKS["context"], pieces=8),
    },
}
ALL = [(group, name) for group, programs in PROGRAMS.items() for name in programs]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory, worker_id):
    """The figures of a program of PROGRAMS; its group is compiled by whichever process asks first."""
    base = tmp_path_factory.getbasetemp()
    folder = base if worker_id == "master" else base.parent

    def figures(group: str, name: str) -> Figures:
        programs, path = PROGRAMS[group], folder / f"{group.replace(':', '-')}.json"
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.is_file():
                target = find_target(group.split()[0])
                found = list(compile_all(target, list(programs.values()), schedules=False))
                path.write_text(json.dumps([asdict(one) for one in found]))
        return from_json(json.loads(path.read_text())[list(programs).index(name)])

    return figures


@needs_libtpu
@pytest.mark.parametrize(("group", "name"), ALL)
def test_every_block_compiles_within_its_memory(compiled, group, name):
    found = compiled(group, name)
    assert found.kernels > 0
    assert found.cycles > 0
    assert found.memory.arguments > 0
    assert found.memory.temporaries < TEMPORARIES


@needs_libtpu
@pytest.mark.parametrize(("group", "name"), ALL)
def test_no_loop_moves_what_stays(compiled, group, name):
    """Neither ring, corpus, nor weights are copied, transposed or rounded while a loop goes on."""
    found = compiled(group, name)
    corpus = 64 * 4096
    # But for a transfer of a column of it into VMEM, which goes on beside a step's kernels.
    whole = [move for move in found.unit.moves if corpus in sizes(move) and not move.startswith("copy-start")]
    loops = [move for loop in found.loops for move in loop.moves]
    if name.startswith("decode"):
        loops += found.unit.moves
    assert (whole, loops) == ([], [])


@needs_libtpu
def test_weights_of_loops_are_in_vmem_as_bfloat16(compiled):
    """XLA multiplies float32 at the precision of bfloat16 by default, so it keeps no more than that."""
    found = compiled("v5e real", "train scan")
    weights = [
        part for loop in found.loops for part in loop.state if sizes(part) in ([256, 1024], [1024, 256])
    ]
    assert len(weights) == 4  # two layers, forward and backward
    assert all(part.startswith("bf16") and part.endswith("S(1)") for part in weights)
    for name in ("decode", "decode multihead"):
        state = compiled("v5e real", name).unit.state
        weights = [part for part in state if sizes(part) in ([256, 1024], [256, 256], [256, 259], [256, 97])]
        assert len(weights) >= 6
        assert all(part.startswith("bf16") and part.endswith("S(1)") for part in weights)


@needs_libtpu
def test_the_default_model_is_within_its_bounds(compiled):
    for name, bounds in STEP.items():
        step = compiled("v5e real", name)
        found = step.kernels, step.loop_kernels, step.cycles, step.memory.temporaries
        assert all(figure <= bound for figure, bound in zip(found, bounds, strict=True)), (name, found)
    event = compiled("v5e real", "decode")
    assert event.kernels <= EVENT_KERNELS
    assert event.cycles <= EVENT_CYCLES
    filtered = compiled("v5e real", "decode filters")
    assert filtered.cycles <= FILTERED_CYCLES
    assert filtered.loop_kernels == 0  # an id is drawn again within the kernel


@needs_libtpu
@pytest.mark.parametrize("name", PROGRAMS["v5e:4x8"])
def test_a_step_on_many_chips_meets_twice(compiled, name):
    assert compiled("v5e:4x8", name).collectives == {"all-reduce": 2}


@needs_libtpu
def test_a_step_on_one_chip_meets_nobody(compiled):
    assert compiled("v5e real", "train").collectives == {}


def sizes(array: str) -> list[int]:
    """Of `bf16[256,1024]S(1)`."""
    found = re.search(r"\[([\d,]*)\]", array)
    return [int(size) for size in found[1].split(",") if size] if found else []


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("target", ["v5e", "v5e:4x8", "tpu7x"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("heads", ["independent", "chained"])
def test_all_blocks_compile_for_all_targets(target, stream, dtype, heads):
    common = TINY | {"model.heads": heads}
    changes = {"model.compute_dtype": dtype, "batch.stream": stream}
    programs: list[Program] = []
    for block in BLOCKS.values():
        programs += [
            Program(settings=common | block | changes),
            Program(settings=common | block | changes, pieces=8),
        ]
    found = list(compile_all(find_target(target), programs, schedules=False))
    assert len(found) == len(programs)
    assert all(one.memory.temporaries < TEMPORARIES for one in found)


@needs_libtpu
@pytest.mark.slow
def test_the_model_of_the_package_compiles():
    programs = [Program("pretrained:chorales"), Program("pretrained:chorales", pieces=4)]
    step, event = compile_all(find_target("v5e"), programs, schedules=False)
    assert step.cycles < 4_900_000
    assert step.loop_kernels == 0
    assert step.memory.temporaries < 300_000_000
    assert event.kernels > 100


@needs_libtpu
@pytest.mark.slow
def test_what_does_not_fit_says_how_many_rows_do():
    too_many = Program(settings=TINY | {"batch.rows": 1 << 20, "batch.length": 256, "model.blocks": ["lstm"]})
    with pytest.raises(InputError, match=r"does not fit into the 17 GB of v5e; \d+ of 1048576 rows do"):
        list(compile_all(find_target("v5e"), [too_many], schedules=False))


@needs_libtpu
def test_the_command_says_and_writes_what_was_found(tmp_path, capsys):
    flags = [f"--{name}={value}" for name, value in TINY.items()]
    words = [
        "bench",
        "compile",
        "--programs",
        "decode",
        "--pieces",
        "8",
        "--out",
        str(tmp_path / "rows.jsonl"),
    ]
    assert main([*words, "--text", str(tmp_path / "text"), *flags]) == 0
    said = capsys.readouterr().out
    assert "memory" in said
    assert "fits" in said
    found = {row["name"]: row for row in rows.read(tmp_path / "rows.jsonl")}
    least, most = found["aot.cycles.scheduled"]["value"], found["aot.cycles"]["value"]
    assert 0 < least < most
    assert found["aot.events_per_s.floor"]["value"] == pytest.approx(8 * 1.5e9 / most, rel=1e-5)
    assert found["aot.events_per_s.ceiling"]["value"] == pytest.approx(8 * 1.5e9 / least, rel=1e-5)
    config = found["aot.temp_bytes"]["config"]
    assert config["target"] == "v5e"
    assert config["program"] == "decode"
    assert config["dtype"] == "float32"
    # The text is what was measured.
    text = (tmp_path / "text" / "0-decode.txt").read_text()
    again = measure("decode", {}, text, Memory(0, 0, 0, 0), 8, 1.0)
    assert again.kernels == found["aot.kernels"]["value"]


@needs_libtpu
def test_the_compiling_process_ends_with_the_one_that_asked():
    words = [sys.executable, "-m", "midigen_jax.bench.worker", Asked("v5e", [Program()]).to_json()]
    quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, env=compiling.environment(find_target("v5e")), **quiet) as process:
        process.stdin.close()
        assert process.wait() == 1


# A program as XLA writes it, by hand: a loop of unknown turns around one of 5 and one of 2 x 3.
TEXT = """\
HloModule by_hand, is_scheduled=true

%fused (p.1: f32[8,16]) -> f32[8,16] {
  %p.1 = f32[8,16]{1,0:T(8,128)} parameter(0)
  ROOT %tanh.1 = f32[8,16]{1,0:T(8,128)} tanh(%p.1)
}

%moved (p.2: f32[512,256]) -> bf16[512,256] {
  %p.2 = f32[512,256]{1,0} parameter(0)
  ROOT %convert.1 = bf16[512,256]{1,0} convert(%p.2)
}

%until_5 (c.1: (s32[], f32[8,16], bf16[16,64])) -> pred[] {
  %c.1 = (s32[], f32[8,16], bf16[16,64]) parameter(0)
  %n.1 = s32[] get-tuple-element(%c.1), index=0
  %five = s32[]{:T(128)} constant(5)
  ROOT %lt.1 = pred[] compare(%n.1, %five), direction=LT
}

%turn_5 (c.2: (s32[], f32[8,16], bf16[16,64])) -> (s32[], f32[8,16], bf16[16,64]) {
  %c.2 = (s32[], f32[8,16], bf16[16,64]) parameter(0)
  %n.2 = s32[] get-tuple-element(%c.2), index=0
  %fusion.1 = f32[8,16]{1,0:T(8,128)S(1)} fusion(%n.2), calls=%fused, metadata={op_name="f/tanh"}, CYCLES(100)
  %copy.1 = f32[512,256]{1,0} copy(%fusion.1), CYCLES(7)
  %fusion.2 = bf16[512,256]{1,0} fusion(%copy.1), calls=%moved
  %copy-start.1 = (f32[512,256]{1,0:S(1)}, f32[512,256]{1,0}, u32[]{:S(2)}) copy-start(%copy.1)
  %pad.1 = f32[8,16]{1,0} pad(%fusion.1), padding=0_0x0_0
  ROOT %t.1 = (s32[], f32[8,16], bf16[16,64]) tuple(%n.2)
}

%until_3 (c.3: (s32[])) -> pred[] {
  %c.3 = (s32[]) parameter(0)
  ROOT %lt.3 = pred[] compare(%c.3, %c.3), direction=LT
}

%turn_3 (c.4: (s32[])) -> (s32[]) {
  %c.4 = (s32[]) parameter(0)
  %all-reduce.1 = f32[8]{0} all-reduce(%c.4), to_apply=%fused, CYCLES(11)
  ROOT %t.3 = (s32[]) tuple(%c.4)
}

%turn_2 (c.5: (s32[])) -> (s32[]) {
  %c.5 = (s32[]) parameter(0)
  %while.3 = (s32[]) while(%c.5), condition=%until_3, body=%turn_3, TURNS(3)
  ROOT %t.5 = (s32[]) tuple(%while.3)
}

%small (p.6: s32[]) -> s32[] {
  %p.6 = s32[] parameter(0)
  ROOT %one.6 = s32[] add(%p.6, %p.6)
}

%large (p.7: s32[]) -> s32[] {
  %p.7 = s32[] parameter(0)
  %one.7 = s32[] add(%p.7, %p.7)
  ROOT %two.7 = s32[] add(%one.7, %p.7)
}

%step (c.8: (s32[])) -> (s32[]) {
  %c.8 = (s32[]) parameter(0)
  %while.1 = (s32[], f32[8,16]{1,0:S(1)}, /*index=2*/bf16[16,64]{1,0:S(1)}) while(%c.8), UNTIL_5
  %while.2 = (s32[]) while(%c.8), condition=%until_3, body=%turn_2, TURNS(2)
  %either = s32[] conditional(%c.8), branch_computations={%small, %large}
  %all-reduce-start.2 = f32[8]{0} all-reduce-start(%c.8), to_apply=%fused
  %all-reduce-done.2 = f32[8]{0} all-reduce-done(%all-reduce-start.2)
  ROOT %t.8 = (s32[]) tuple(%while.2)
}

ENTRY %main (a.1: s32[]) -> s32[] {
  %a.1 = s32[] parameter(0)
  %copy.9 = s32[] copy(%a.1)
  %while.9 = (s32[]) while(%copy.9), condition=%until_3, body=%step
  ROOT %r.9 = s32[] get-tuple-element(%while.9), index=0
}
"""
TEXT = re.sub(r"CYCLES\((\d+)\)", r'backend_config={"estimated_cycles":"\1"}', TEXT)
TEXT = TEXT.replace("UNTIL_5", "condition=%until_5, body=%turn_5")
TEXT = re.sub(r"TURNS\((\d+)\)", r'backend_config={"known_trip_count":{"n":"\1"}}', TEXT)


def by_hand(**more) -> Figures:
    return measure("train", {"dtype": "bfloat16"}, TEXT, Memory(100, 20, 3, 0), 64, 1e6, **more)


def test_a_text_is_read_with_its_loops():
    module = Module(TEXT)
    assert module.entry == "main"
    outer = module.unit()
    assert (outer.body, outer.turns) == ("step", None)
    assert [(loop.body, loop.turns) for loop in module.all_loops("step")] == [
        ("turn_5", 5),
        ("turn_2", 2),
        ("turn_3", 3),
    ]
    state = module.loops("step")[0].state
    assert state == (Shape("s32", (), 0), Shape("f32", (8, 16), 1), Shape("bf16", (16, 64), 1))
    assert [shape.bytes for shape in state] == [4, 512, 2048]


def test_a_condition_that_may_end_sooner_has_no_known_turns():
    other = TEXT.replace(
        "ROOT %lt.1 = pred[] compare(%n.1, %five), direction=LT", "ROOT %x = pred[] not(%n.1)"
    )
    assert Module(other).loops("step")[0].turns is None


def test_kernels_count_as_often_as_their_loops_turn():
    found = by_hand()
    # 5 x 4, 2 x 3 x 1, the larger branch's 2, and both ends of the sum that goes on beside others.
    assert found.loop_kernels == 5 * 4 + 2 * 3
    assert found.kernels == found.loop_kernels + 2 + 2
    assert found.cycles == 5 * (100 + 7) + 6 * 11
    assert found.collectives == {"all-reduce": 7}
    assert (found.largest[0].name, found.largest[0].times, found.largest[0].cycles) == ("fusion.1", 5, 500)
    assert found.largest[0].source == "f/tanh"


def test_what_a_loop_only_moves_is_named():
    first, *others = by_hand().loops
    assert LARGE <= 512 * 256 * 2
    moved = ("copy.1 f32[512,256]", "fusion.2 bf16[512,256]", "copy-start.1 f32[512,256]")
    assert first.moves == moved  # and not the small one
    assert first.state == ("s32[]", "f32[8,16]S(1)", "bf16[16,64]S(1)")
    assert all(loop.moves == () for loop in others)


SCHEDULE = """\
     0   :  { %s1 = sld [smem:[#allocation1]] }
   0x1 LB: > { %s2 = sadd.s32 1, %s1 }
   0x2   : > { %p3 = scmp.ge.s32.totalorder %s2, 12 /* loop exit test */ }
   0x3 LB: >> { %s4 = sadd.s32 1, %s2 }
   0x4   : >> { %v5 = vld [vmem:[%s4]] }
   0x5   : > { %6 = sbr.rel (!%p5) target = $region3 }
   0x6   :  {}
   0x7   : > { %v7 = vld [vmem:[%s4]] }
   0x8   :  { %9 = sbr.rel (!%p3) target = $region1 }
   0x9   :  {}
   0xa   :  { %s8 = sld [smem:[#allocation1]] }
"""


def test_a_schedule_counts_a_loop_as_often_as_it_turns():
    found = read_schedule(SCHEDULE)
    (outer,) = found.loops
    (inner,) = outer.loops
    # The branch back and its delay belong to the loop. Of 12 turns of a pipeline two fill and empty it.
    assert (found.bundles, outer.bundles, outer.turns) == (2, 5, 10)
    assert (inner.bundles, inner.turns) == (4, 1)
    assert found.issued == 2 + 10 * (5 + 4)


def test_schedules_are_read_for_kernels_that_share_their_code(tmp_path):
    (tmp_path / "17-fusion.1-00-schedule-analysis_final_bundles.txt").write_text(
        "total scheduled bundles: 9\n"
    )
    (tmp_path / "17-fusion.1-01-final_bundles.txt").write_text(SCHEDULE)
    program = "".join(
        f"   {address:#x} {mark:2}: {depth} {{ %s0 = sadd.s32 1 }}\n"
        for address, (mark, depth) in enumerate(
            [("", ""), ("LB", ">"), ("LB", ">>"), ("", ">"), ("LB", ">>"), ("LB", ">>>"), ("", ">")]
        )
    )
    (tmp_path / "17-TLP-03-final_bundles.txt").write_text(program)
    shared = "key:fusion.1\nordinal:0\nequivalent_hlos[size=2]:\n  fusion.1\n  all-reduce.1\n"
    (tmp_path / "17-TLP-00-deduplication-map.txt").write_text(shared)
    schedules = read_schedules(tmp_path)
    assert schedules["all-reduce.1"] is schedules["fusion.1"]
    module = Module(TEXT)
    assert program_bundles(schedules, module, "step") == 3 + 5 * 1 + 2 * (1 + 3 * 1)
    found = by_hand(schedules=schedules)
    assert found.scheduled == (5 + 6) * schedules["fusion.1"].issued + 16
    assert found.unscheduled == 5  # three moves, both ends of a sum … and none of the numbers
    assert found.largest[0].name == "all-reduce.1"


def test_figures_pass_through_json():
    found = by_hand()
    assert from_json(json.loads(json.dumps(asdict(found)))) == found


def test_what_is_asked_passes_through_json():
    asked = Asked("v5e", [Program("article"), Program(settings={"model.width": 8}, pieces=3)], "a", "b")
    assert Asked.from_json(json.loads(asked.to_json())) == asked


def test_rows_have_a_floor_and_a_ceiling():
    target = find_target("v5e:2x2")
    found = {row["name"]: row for row in rows_of(by_hand(), target, {"recipe": "by hand"}, command="x")}
    assert found["aot.cycles"]["value"] == 601
    assert found["aot.events_per_s.floor"]["value"] == pytest.approx(64 * 1.5e9 / 601, rel=1e-5)
    assert found["aot.events_per_s.limit"]["value"] == pytest.approx(64 * 1.97e14 / 1e6, rel=1e-5)
    assert "aot.events_per_s.ceiling" not in found  # no schedules
    assert found["aot.temp_bytes"]["value"] == 20
    config = {"target": "v5e:2x2", "devices": 4, "program": "train", "dtype": "bfloat16"}
    config["recipe"] = "by hand"
    assert found["aot.collectives"]["config"] == config
    assert any("does not fit" not in line and "fits" in line for line in in_words(by_hand(), target))


def test_a_target_is_a_chip_or_a_slice_of_them():
    assert (find_target("v5e").devices, find_target("v5e").topology) == (1, "1x1")
    assert find_target("v5e:4x8").devices == 32
    assert find_target("v5p").devices == 1
    assert find_target("tpu7x").devices == 2  # a chip's cores
    assert find_target("tpu7x:2x2x1").devices == 8
    assert find_target("h200").chip is CHIPS["h200"]
    assert all(find_target(name).devices >= 1 for name in known_targets())


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("v5f", "did you mean v5"),
        ("v5e:3x8", "did you mean v5e:.x8"),
        ("abacus", "there is v5e, v5p, v6e, tpu7x, h100, h200"),
        ("h200:2x2", "did you mean h200"),
    ],
)
def test_an_unknown_target_names_those_that_are_known(capsys, name, remedy):
    assert main(["bench", "compile", "--target", name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(f"--target {name}: unknown; {remedy}", error)


def test_an_unknown_program_is_answered_with_the_nearest(capsys):
    assert main(["bench", "compile", "--programs", "train,decod"]) == 2
    assert capsys.readouterr().err == "midigen: --programs decod: did you mean decode?\n"


def installed(monkeypatch, **versions):
    def version(package):
        found = versions.get(package.replace("-", "_"))
        if found is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return found

    monkeypatch.setattr(compiling.importlib.metadata, "version", version)


def test_a_libtpu_of_another_jax_is_refused(monkeypatch):
    needed = compiling.needed_libtpu()
    assert re.fullmatch(r"\d+\.\d+\.\d+", needed)
    installed(monkeypatch, libtpu=f"{needed}.7", jax="0.10.2")
    check_compiler(find_target("v5e"))
    installed(monkeypatch, libtpu=f"{needed}9.7", jax="0.10.2")
    with pytest.raises(
        InputError, match=rf"libtpu {needed}9.7 .* jax 0.10.2 needs {needed}\.\*; pip install"
    ):
        check_compiler(find_target("v5e"))


def test_a_missing_compiler_says_what_to_install(monkeypatch):
    installed(monkeypatch)
    with pytest.raises(InputError, match=r"libtpu, .* not installed; pip install 'libtpu==[\d.]+\.\*'"):
        check_compiler(find_target("v6e:4x4"))
    with pytest.raises(
        InputError, match=r"jax-cuda12-plugin, .* not installed; pip install 'midigen-jax\[aot-cuda"
    ):
        check_compiler(find_target("h200"))


def test_a_recipe_that_is_nothing_names_those_that_there_are():
    with pytest.raises(InputError, match=r"--recipe defualt: no recipe, .*; did you mean default\?"):
        worker.subject("defualt", {})
    network, config = worker.subject("article", {"model.width": 8})
    size_of = dict(network.vocabulary.streams)
    assert (network.config.width, config.batch.length, size_of["pitch"]) == (8, 32, 1000)


def test_rows_that_devices_cannot_share_name_the_nearest_number():
    config = Config()
    network = Network(config.model, NoteVocabulary(4))
    with pytest.raises(InputError, match=r"batch\.rows = 16: 32 devices .* 32 is the nearest .* 256 or more"):
        lower_train(network, config, [None] * 32)


def test_a_program_that_does_not_fit_tries_fewer_rows(monkeypatch):
    """Halved until it compiles, and shared by all devices."""
    tried = []

    class TooLarge(jax.errors.JaxRuntimeError):
        error_code_string = "RESOURCE_EXHAUSTED"

    def compile_program(asked, program, target, own):
        tried.append(program.settings["batch.rows"])
        if tried[-1] > most:
            raise TooLarge
        return by_hand(), TEXT

    monkeypatch.setattr(worker, "compile_program", compile_program)
    monkeypatch.setattr(worker.compiled, "devices", lambda target: [None] * target.devices)
    asked = Asked("v5e:2x2", [Program(settings={"batch.rows": 1000})])
    most = 300
    (answer,) = worker.answers(asked)
    assert tried == [1000, 500, 248]
    assert answer["wrong"].endswith(
        "does not fit into the 17 GB of v5e:2x2; 248 of 1000 rows do: --batch.rows 248"
    )
    most = 3
    (answer,) = worker.answers(asked)
    assert "whatever its rows; give more chips" in answer["wrong"]


def test_a_fault_of_the_compiler_is_no_lack_of_memory(monkeypatch):
    def compile_program(asked, program, target, own):
        raise jax.errors.JaxRuntimeError("INTERNAL: a fault")

    monkeypatch.setattr(worker, "compile_program", compile_program)
    monkeypatch.setattr(worker.compiled, "devices", lambda target: [None])
    with pytest.raises(jax.errors.JaxRuntimeError, match="a fault"):
        list(worker.answers(Asked("v5e", [Program()])))
