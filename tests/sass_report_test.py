#!/usr/bin/env python3
"""bench/sass_report on small made-up listings whose figures are counted by hand. Needs no toolkit."""
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "bench", "sass_report")


def load_script():
    loader = importlib.machinery.SourceFileLoader("sass_report", SCRIPT)
    sys.dont_write_bytecode = True
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("sass_report", loader))
    loader.exec_module(module)
    return module


sass = load_script()

FORWARD = "_Z19lstm_forward_kernelILj64ELb1EEv16lstm_forward_job"
BACKWARD = "_Z20lstm_backward_kernelILj64EEv17lstm_backward_job"


def listing(arch, symbol, lines):
    """As cuobjdump -sass prints it: an instruction, its encoding, and a second line of encoding."""
    text = [f"arch = {arch}", f"\tcode for {arch}", f"\t\tFunction : {symbol}",
            '\t.headerflags\t@"EF_CUDA_SM90"']
    for i, line in enumerate(lines):
        text.append(f"        /*{16 * i:04x}*/                   {line} ;    /* 0x000000ff00057202 */")
        text.append("                                              /* 0x000fe200078e00ff */")
    return "\n".join(text) + "\n\t\t..........\n"


# Two steps a turn, from 0010 to 0120. Each: load, multiply-add, shuffle, add, store, barrier; then
# a prefetch, in the first step guarded. Before it a loop without a barrier, behind it a branch back
# that is no loop of time.
STEP = ["LDS.128 R4, [R1]", "FFMA.FTZ R8, R4.reuse, R20, R9", "SHFL.BFLY PT, R10, R8, 0x1, 0x1f",
        "FADD R11, R8, R10", "STS [R2], R11", "BAR.SYNC.DEFER_BLOCKING 0x0"]
LOOP = (["IADD3 R1, R1, 0x1, RZ"] + STEP + ["@P0 LDG.E R9, desc[UR4][R30.64]"] + STEP +
        ["LDG.E R9, desc[UR4][R30.64]", "IADD3 R5, P1, R5, -0x2, RZ", "ISETP.NE.AND P2, PT, R5, RZ, PT",
         "MUFU.EX2 R40, R41", "@P2 BRA 0x10", "EXIT", "BRA 0x140"])
RESOURCES = """
arch = {arch}
Resource usage:
 Common:
  GLOBAL:0
 Function {symbol}:
  REG:{registers} STACK:{stack} SHARED:{shared} LOCAL:0 CONSTANT[0]:552 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
ELF = """
arch = {arch}
.nv.info.{symbol}
\t<0x1>
\tAttribute:\tEIATTR_CUDA_API_VERSION
\tFormat:\tEIFMT_SVAL
\tValue:\t0x82
\t<0x2>
\tAttribute:\tEIATTR_MAX_THREADS
\tFormat:\tEIFMT_SVAL
\tValue:\t{threads:#x} 0x1 0x1
"""


def kernel_of(lines, arch="sm_90", symbol=FORWARD, threads=256, **resources):
    kernels = sass.parse_sass(listing(arch, symbol, lines))
    values = {"registers": 128, "stack": 0, "shared": 1024, **resources}
    sass.parse_resources(RESOURCES.format(arch=arch, symbol=symbol, **values), kernels)
    sass.parse_threads(ELF.format(arch=arch, symbol=symbol, threads=threads), kernels)
    return kernels[arch, symbol]


class Parsing(unittest.TestCase):
    def test_names(self):
        self.assertEqual(sass.plain_name(FORWARD), ("lstm_forward_kernel", [64, 1]))
        self.assertEqual(sass.plain_name("_Z11adam_kernelPf"), ("adam_kernel", []))
        self.assertEqual(sass.plain_name("_ZL3abcILi7EEvv"), ("abc", [7]))
        self.assertEqual(sass.plain_name("unmangled"), ("unmangled", []))

    def test_instructions(self):
        one = sass.Instruction("@!P0 LDG.E.64 R2, desc[UR4][R30.64+0x10]")
        self.assertEqual((one.guard, one.base), ("P0", "LDG"))
        self.assertEqual(one.operands, ["R2", "desc[UR4][R30.64+0x10]"])
        self.assertEqual(sass.split_operands(one)[0], ["R2", "R3"])
        self.assertIn("P0", sass.split_operands(one)[1])
        self.assertEqual(sass.Instruction("@P2 BRA P3, 0x1f40").target(), 0x1F40)
        self.assertIsNone(sass.Instruction("EXIT").target())

    def test_what_is_written_and_read(self):
        def split(text):
            written, read = sass.split_operands(sass.Instruction(text))
            return set(written), set(read)
        self.assertEqual(split("SHFL.BFLY PT, R10, R8, 0x1, 0x1f"), ({"R10"}, {"R8"}))
        self.assertEqual(split("LDS.128 R4, [R1]"), ({"R4", "R5", "R6", "R7"}, {"R1"}))
        self.assertEqual(split("STS.64 [R1], R4"), (set(), {"R1", "R4"}))
        self.assertEqual(split("ISETP.NE.AND P2, PT, R5, RZ, PT"), ({"P2"}, {"R5"}))
        self.assertEqual(split("FFMA2 R4, R8, R12, R4")[0], {"R4", "R5"})
        self.assertEqual(split("FFMA2 R4, R8, R12, R4")[1], {"R4", "R5", "R8", "R9", "R12", "R13"})
        self.assertEqual(split("@P1 MOV R3, R4"), ({"R3"}, {"P1", "R4", "R3"}))

    def test_architectures_are_kept_apart(self):
        kernels = sass.parse_sass(listing("sm_80", FORWARD, LOOP) + listing("sm_90", FORWARD, LOOP[:3])
                                  + listing("sm_90", BACKWARD, LOOP[:5]))
        self.assertEqual({key: len(kernel.code) for key, kernel in kernels.items()},
                         {("sm_80", FORWARD): len(LOOP), ("sm_90", FORWARD): 3,
                          ("sm_90", BACKWARD): 5})


class TimeLoop(unittest.TestCase):
    def test_instructions_per_step(self):
        row = sass.report(kernel_of(LOOP))
        loop = row["loop"]
        # From 0010 to the branch: 6 + 1 + 6 + 1 + 4 = 18 instructions for two steps.
        self.assertEqual(loop["unrolled"], 2)
        self.assertEqual(loop["instructions_per_step"], 9)
        self.assertEqual(loop["classes"], {
            "LDS": 1, "FFMA": 1, "SHFL": 1, "FADD/FMUL": 1, "STS": 1, "BAR": 1, "LDG": 1, "MUFU": 0.5,
            "integer, select, move": 1, "control": 0.5})
        # 256 threads are 8 warps, two of them on each of four schedulers.
        self.assertEqual(loop["slots_per_step"], 18)
        self.assertEqual(loop["floor_slots"], 128)

    def test_chain(self):
        # load 29, multiply-add 4, shuffle 25, add 4, store 0, barrier 20: all wait for each other.
        self.assertEqual(sass.report(kernel_of(LOOP))["loop"]["chain_cycles"], 82)
        # What the chain does not need does not lengthen it, however slow it is.
        aside = STEP[:1] + ["MUFU.RCP R50, R4", "MUFU.EX2 R51, R50"] + STEP[1:]
        lines = aside + ["BRA 0x0"]
        self.assertEqual(sass.report(kernel_of(lines))["loop"]["chain_cycles"], 82)
        # A value carried from step to step without the barrier can be the longer chain only where
        # it reaches the store.
        carried = ["MUFU.EX2 R60, R60"] * 5 + STEP[:3] + ["FADD R11, R10, R60"] + STEP[4:]
        self.assertEqual(sass.report(kernel_of(carried + ["BRA 0x0"]))["loop"]["chain_cycles"], 105)

    def test_packed_multiplications_halve_the_floor(self):
        packed = [line.replace("FFMA.FTZ", "FFMA2") for line in LOOP]
        loop = sass.report(kernel_of(packed, arch="sm_100"))["loop"]
        self.assertEqual((loop["classes"]["FFMA2"], loop["floor_slots"]), (1, 64))

    def test_no_loop(self):
        self.assertIsNone(sass.report(kernel_of(STEP + ["BRA 0x90", "FADD R1, R1, R1", "EXIT"]))["loop"])

    def test_uneven_warps_count_by_the_fullest_scheduler(self):
        symbol = FORWARD.replace("Lj64E", "Lj80E")
        row = sass.report(kernel_of(LOOP, symbol=symbol, threads=320))
        self.assertEqual(row["loop"]["slots_per_step"], 27)  # 10 warps: 3, 3, 2, 2


class Occupancy(unittest.TestCase):
    def blocks(self, arch, threads, registers, shared):
        return sass.blocks_per_sm(arch, threads, registers, shared)

    def test_by_each_limit(self):
        self.assertEqual(self.blocks("sm_90", 256, 128, 0), 2)    # 65536 / (256 * 128)
        self.assertEqual(self.blocks("sm_90", 256, 129, 0), 1)    # 136 after rounding to 8
        self.assertEqual(self.blocks("sm_90", 256, 32, 0), 8)     # 2048 threads
        self.assertEqual(self.blocks("sm_86", 256, 32, 0), 6)     # 1536 threads
        self.assertEqual(self.blocks("sm_90", 32, 16, 0), 32)     # resident blocks
        self.assertEqual(self.blocks("sm_90", 256, 32, 99 * 1024), 2)  # 228 KiB of shared memory
        self.assertEqual(self.blocks("sm_86", 512, 128, 99 * 1024), 1)
        self.assertEqual(self.blocks("sm_75", 256, 32, 64 * 1024), 1)
        self.assertIsNone(self.blocks("sm_999", 256, 32, 0))

    def test_shared_memory(self):
        # sm_90 and newer: the compiler's 1024 bytes are the system's. Two copies of 64 floats.
        self.assertEqual(sass.report(kernel_of(LOOP))["shared_bytes"], 512)
        self.assertEqual(sass.report(kernel_of(LOOP, arch="sm_80", shared=0))["shared_bytes"], 512)
        backward = sass.report(kernel_of(LOOP, symbol=BACKWARD, shared=1024))
        self.assertEqual(backward["shared_bytes"], 2048)
        # At H = 128 the state is 8 loads; each further one is 16 bytes of weights for each of 512
        # threads.
        symbol = FORWARD.replace("Lj64E", "Lj128E")
        many = ["LDS.128 R4, [R1]"] * 10 + STEP[1:] + ["BRA 0x0"]
        row = sass.report(kernel_of(many, symbol=symbol, threads=512))
        self.assertEqual(row["shared_bytes"], 1024 + 2 * 16 * 512)
        other = sass.report(kernel_of(STEP, symbol="_Z11adam_kernelPf", shared=3072))
        self.assertEqual((other["shared_bytes"], other["loop"]), (2048, None))


class Check(unittest.TestCase):
    def rows(self, forward=None, **resources):
        return [sass.report(kernel_of(forward or LOOP, **resources)),
                sass.report(kernel_of(LOOP, symbol=BACKWARD))]

    def test_good(self):
        self.assertEqual(sass.problems_of(self.rows()), [])

    def test_stack_and_spills(self):
        self.assertIn("8 bytes of stack", sass.problems_of(self.rows(stack=8))[0])
        spilled = LOOP[:-3] + ["EXIT", "STL [R1], R4", "LDL R4, [R1]"]
        self.assertIn("2 instructions that spill", sass.problems_of(self.rows(spilled))[0])

    def test_slots(self):
        def turn(count):
            return STEP + ["FADD R70, R70, R71"] * (count - len(STEP) - 1) + ["BRA 0x0"]
        self.assertEqual(sass.problems_of(self.rows(turn(160))), [])  # 320 slots
        self.assertIn("322.0 issue slots", sass.problems_of(self.rows(turn(161)))[0])

    def test_a_size_that_is_missing(self):
        self.assertIn("no recurrent kernel for H = 64 backward", sass.problems_of(self.rows()[:1]))
        self.assertEqual(len(sass.problems_of([])), 2)

    def test_a_loop_that_is_missing(self):
        self.assertIn("no loop", sass.problems_of(self.rows(["EXIT"]))[0])


class Program(unittest.TestCase):
    """The script itself, with stand-ins for the tools."""

    def setUp(self):
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.place = place.name

    def install(self, stack=0):
        both = [(FORWARD, stack), (BACKWARD, 0)]
        answers = {
            "-sass": "".join(listing("sm_90", symbol, LOOP) for symbol, _ in both),
            "--dump-resource-usage": "".join(
                RESOURCES.format(arch="sm_90", symbol=symbol, registers=128, stack=bytes_, shared=1024)
                for symbol, bytes_ in both),
            "-elf": "".join(ELF.format(arch="sm_90", symbol=symbol, threads=256) for symbol, _ in both)}
        for name in ("cuobjdump", "nvdisasm"):
            path = os.path.join(self.place, name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(f"#!{sys.executable}\nimport sys\n"
                           f"sys.stdout.write({answers!r}[sys.argv[1]])\n")
            os.chmod(path, 0o755)

    def run_script(self, *arguments):
        environment = dict(os.environ, CAIRN_CUDA_TOOLS=self.place)
        return subprocess.run([sys.executable, SCRIPT, *arguments], env=environment,
                              capture_output=True, text=True, check=False)

    def test_table_json_and_check(self):
        self.install()
        path = os.path.join(self.place, "out.json")
        done = self.run_script("object.o", "--check", "--json", path)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        line = next(x for x in done.stdout.splitlines() if x.startswith("lstm_forward_kernel<64, 1>"))
        self.assertEqual(line.split()[2:], ["sm_90", "128", "0", "0", "256", "512", "2"])
        with open(path, encoding="utf-8") as file:
            rows = json.load(file)
        self.assertEqual([row["kernel"] for row in rows],
                         ["lstm_backward_kernel<64>", "lstm_forward_kernel<64, 1>"])
        self.assertEqual(rows[1]["loop"]["chain_cycles"], 82)

    def test_markdown(self):
        self.install()
        done = self.run_script("object.o", "--markdown")
        self.assertIn("| lstm_backward_kernel<64> | sm_90 | 128 | 0 | 0 | 256 | 2048 | 2 |", done.stdout)

    def test_a_bad_kernel_fails_the_check_only(self):
        self.install(stack=16)
        self.assertEqual(self.run_script("object.o").returncode, 0)
        done = self.run_script("object.o", "--check")
        self.assertEqual(done.returncode, 1)
        self.assertIn("lstm_forward_kernel<64, 1> for sm_90: 16 bytes of stack", done.stderr)

    def test_nothing_built(self):
        self.install()
        done = self.run_script("--build", self.place)
        self.assertEqual(done.returncode, 2)
        self.assertIn("no CUDA objects", done.stderr)


if __name__ == "__main__":
    unittest.main()
