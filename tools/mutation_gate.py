# SPDX-License-Identifier: Apache-2.0

"""Weakens the lock-free core, one memory order or re-check at a time, and runs what should notice.

See mutation_gate.sh. The orders are found in the headers; the re-checks are in mutation_rechecks.py.
The tests are compiled once, with all mutants in them (mutation_switches.py); those mutants for which
that can't be done are compiled one by one.
"""

import argparse
import collections
import concurrent.futures
import glob
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import mutation_switches
from mutation_rechecks import RECHECKS

HEADERS = [
    *sorted(glob.glob("weakref/internal/*.h")),
    "cache/internal/concurrent/concurrent_index.h",
    "cache/internal/creation/single_flight.h",
    "cache/internal/loading/completion_handoff.h",
    "cache/internal/loading/load_limiter.h",
    "cache/internal/retention/byte_limit.h",
    "cache/internal/slot/retire_list.h",
    "cache/internal/slot/teardown_count.h",
    "cache/internal/table/expiry_claim.h",
]
SURVIVORS = "tools/mutation_survivors.txt"
COPIED = ["cache", "include", "tests", "third_party", "weakref"]
SWITCHES = "mutation_switches.h"

# What an order can be weakened to.
WEAKER = {
    "acquire": ["relaxed"],
    "release": ["relaxed"],
    "acq_rel": ["relaxed", "acquire", "release"],
}

# The tests that look at one header in particular; the others run after them.
LANES_OF = {
    "control_block.h": ["deferred_destruction", "reference_counts"],
    "expiry_callback.h": ["expiry_callback"],
    "finalizer_state.h": ["finalizer_state"],
    "reference_counts.h": ["reference_counts", "reference_counts_overflow"],
    "atomic_reference.h": ["atomic_ref"],
    "pointer_lock.h": ["watcher_list", "atomic_ref"],
    "watcher_list.h": ["watcher_list"],
}

# Mutants of cache/ are the affair of these models, if any, and then of the containers' tests.
CACHE_MODELS_OF = {
    "concurrent_core.h": ["concurrent_table"],
    "concurrent_index.h": ["concurrent_index", "concurrent_table"],
    "concurrent_slot.h": ["concurrent_table"],
    "concurrent_table.h": ["concurrent_table", "single_flight"],
    "concurrent_weak_value_map.h": ["concurrent_table", "single_flight"],
    "expiry_claim.h": ["expiry_claim", "weak_table"],
    "retire_list.h": ["retire_list", "weak_table"],
    "single_flight.h": ["single_flight", "wait_graph"],
    "page_header.h": ["weak_table", "concurrent_table"],
    "slot_pages.h": ["weak_table"],
    "table_core.h": ["weak_table"],
    "table_pages.h": ["weak_table", "concurrent_table"],
    "teardown_count.h": ["retire_list", "weak_table"],
    "table_slot.h": ["weak_table"],
    "wait_graph.h": ["wait_graph"],
    "weak_table.h": ["weak_table"],
    "load_limiter.h": ["wait_graph"],
    "byte_limit.h": ["byte_limit"],
    "completion_handoff.h": ["completion_handoff"],
    "pending_completions.h": ["completion_handoff"],
}
CONTAINER_TESTS = [
    "tests/cache/weak_value_map_test",
    "tests/cache/weak_container_reentrancy_test",
    "tests/cache/weak_key_map_test",
    "tests/cache/weak_key_map_weak_value_test",
    "tests/cache/weak_key_map_by_value_reentrancy_test",
    "tests/cache/weak_set_test",
    "tests/cache/weak_interner_test",
    "tests/cache/internal/table/embedded_slot_race_test",
    "tests/cache/internal/table/slot_index_test",
    "tests/cache/internal/slot/slot_pages_test",
    "tests/script/script_test",
]

# Those of the thread-safe map, and of the cache, which is built on the same folders and has its own.
MAP_TESTS = [
    "tests/cache/concurrent_weak_value_map_exception_safety_test",
    "tests/cache/concurrent_weak_value_map_test",
    "tests/cache/concurrent_weak_value_map_race_test",
    "tests/cache/concurrent_weak_value_map_linearizability_test",
    "tests/cache/concurrent_weak_value_map_reentrancy_race_test",
    "tests/cache/internal/concurrent/concurrent_index_test",
    "tests/cache/internal/creation/single_flight_test",
]
CACHE_TESTS = [
    "tests/cache/internal/loading/failure_table_test",
    "tests/cache/internal/retention/retention_test",
    "tests/cache/internal/retention/lazy_greedy_dual_test",
    "tests/cache/internal/retention/admission_duels_test",
    "tests/cache/large_object_cache_budget_test",
    "tests/cache/large_object_cache_hard_limit_test",
    "tests/cache/large_object_cache_operations_test",
    "tests/cache/large_object_cache_loading_test",
    "tests/cache/large_object_cache_refresh_test",
    "tests/cache/large_object_cache_bulk_test",
    "tests/cache/large_object_cache_failures_test",
    "tests/cache/large_object_cache_freshness_script_test",
    "tests/cache/large_object_cache_freshness_test",
    "tests/cache/large_object_cache_groups_race_test",
    "tests/cache/large_object_cache_groups_test",
    "tests/cache/large_object_cache_holders_test",
    "tests/cache/large_object_cache_async_test",
    "tests/cache/large_object_cache_completion_test",
    "tests/cache/large_object_cache_completion_end_test",
    "tests/cache/large_object_cache_prefetch_test",
    "tests/cache/large_object_cache_waiting_test",
    "tests/cache/large_object_cache_soft_timeout_test",
    "tests/cache/large_object_cache_reentrancy_test",
    "tests/cache/large_object_cache_end_test",
    "tests/cache/concurrent_creation_circle_test",
    "tests/cache/large_object_cache_race_test",
    "tests/cache/large_object_cache_exception_safety_test",
    "tests/cache/large_object_cache_test",
    "tests/cache/large_object_cache_second_tier_test",
    "tests/cache/large_object_cache_tier_eviction_test",
    "tests/cache/large_object_cache_tier_recheck_test",
    "tests/cache/large_object_cache_tier_refresh_test",
]
TIER_TESTS = [
    "tests/cache/large_object_cache_tier_eviction_test",
    "tests/cache/large_object_cache_tier_recheck_test",
    "tests/cache/large_object_cache_tier_refresh_test",
    "tests/cache/large_object_cache_second_tier_test",
    "tests/cache/large_object_cache_second_tier_failures_test",
    "tests/cache/large_object_cache_second_tier_race_test",
]
# Mutants that use what has ended may go unnoticed without AddressSanitizer: those of the cache that
# no other test has killed are tried on these with it.
ADDRESS_TESTS = [
    "tests/cache/large_object_cache_async_test",
    "tests/cache/large_object_cache_completion_end_test",
    "tests/cache/large_object_cache_prefetch_test",
    "tests/cache/large_object_cache_refresh_test",
    "tests/cache/large_object_cache_end_test",
]
ADDRESS = "+address"
MAP_FOLDERS = ("cache/internal/concurrent/", "cache/internal/creation/")
CACHE_FOLDERS = tuple(
    f"cache/internal/{folder}/" for folder in ["core", "loading", "retention", "stats"]
)

# What mutants of cache/ are linked with: these include none of its internal headers. The tiers,
# which need other libraries, are no part of them.
UNCHANGED = [
    "tests/support/allocations.cc",
    *sorted(glob.glob("weakref/*.cc")),
    *sorted(glob.glob("cache/*.cc")),
]

# The last ones, for mutants of weakref/ that no model has killed.
REFERENCE_TESTS = [
    "tests/weakref/expiry_test",
    "tests/weakref/finalizer_test",
    "tests/weakref/ref_test",
    "tests/weakref/weak_ref_test",
]

# What find_failure returns for a test that takes too long.
TIMEOUT = "timeout"

# What becomes of a mutant.
KILLED = "killed"
KILLED_EXPLAINED = "explained, but killed"
SURVIVED = "SURVIVED"
SURVIVED_EXPLAINED = "survived, as explained"
DOES_NOT_COMPILE = "DOES NOT COMPILE"

Mutant = collections.namedtuple("Mutant", "id header start end replacement")

def enclosing_function(text, position):
    """The name of the member function that the position lies in."""
    name = "?"
    for match in re.finditer(r"^  (?! )[^/\n;=]*?(~?\w+)\([^;]*?\{", text[:position], re.MULTILINE):
        name = match[1]
    return name


def order_mutants():
    seen = collections.Counter()
    for header in HEADERS:
        with open(header, encoding="utf-8") as file:
            text = file.read()
        for match in re.finditer(r"std::memory_order_(acquire|release|acq_rel)\b", text):
            operation = re.findall(r"(?:\.|->)(\w+)\(", text[:match.start()])[-1]
            function = enclosing_function(text, match.start())
            place = f"{os.path.basename(header)}/{function}/{operation}"
            seen[place] += 1
            if seen[place] > 1:
                place += f"#{seen[place]}"
            for weaker in WEAKER[match[1]]:
                yield Mutant(f"{place}/{match[1]}->{weaker}", header, match.start(1), match.end(1),
                             weaker)


def recheck_mutants():
    for name, header, old, new in RECHECKS:
        with open(header, encoding="utf-8") as file:
            text = file.read()
        # However the text is wrapped.
        found = list(re.finditer(r"\s+".join(map(re.escape, old.split())), text))
        if len(found) != 1:
            sys.exit(f"{header}: not exactly once: {old!r}; mend RECHECKS in {__file__}")
        yield Mutant(f"{os.path.basename(header)}/without: {name}", header, *found[0].span(), new)


def read_explanations():
    """Mutant id to reason, from lines "id = reason" that indented lines continue."""
    explanations = {}
    mutant = None
    with open(SURVIVORS, encoding="utf-8") as file:
        for line in file:
            if line.startswith("#") or not line.strip():
                continue
            if line[0].isspace():
                explanations[mutant] += " " + line.strip()
            else:
                mutant, _, reason = line.strip().partition(" = ")
                explanations[mutant] = reason
    return explanations


class DoesNotCompile(Exception):
    pass


class Lane:
    """A way to notice a mutant."""

    def __init__(self, name, command_to_build, command_to_run, more_rounds=False):
        self.has_more_rounds = more_rounds
        self.name = name
        self.seconds = 0
        self._build = command_to_build
        self._run = command_to_run
        self._limits = {"some": 1800, "all": 3600}

    def build(self, directory, switched):
        """What the compiler says against it, or None."""
        command = [*self._build, *(["-include", SWITCHES] if switched else [])]
        built = subprocess.run(command, capture_output=True, check=False, cwd=directory, text=True,
                               errors="replace")
        return built.stderr if built.returncode else None

    def find_failure(self, directory, rounds="some", number=0):
        """What failed in what was built in `directory`, with that mutant switched on, or None."""
        environment = {**os.environ, "WEAKCACHE_TEST_ROUNDS": rounds,
                       mutation_switches.VARIABLE: str(number)}
        try:
            run = subprocess.run(self._run, capture_output=True, check=False,
                                 timeout=self._limits[rounds], env=environment, cwd=directory)
        except subprocess.TimeoutExpired:
            return TIMEOUT
        if run.returncode == 0:
            return None
        output = run.stdout.decode(errors="replace")
        # As a model says it, and as GoogleTest does.
        failure = (re.search(r"^FAILED: ([^:\n]*):[^\n]*\n([^\n]*)", output, re.MULTILINE) or
                   re.search(r"^\[  FAILED  \] ([\w./]+)()", output, re.MULTILINE))
        if failure is None:
            return f"{self.name}: exit code {run.returncode}"
        reason = failure[2].lower().replace(" (data race detected)", "")
        return f"{self.name}: {failure[1]}" + (f", {reason}" if reason else "")

    def check_baseline(self, directory):
        """The code as it is must pass; how long that takes limits the mutants."""
        start = time.monotonic()
        failure = self.find_failure(directory)
        if failure is not None:
            sys.exit(f"without any change: {failure}")
        self.seconds = time.monotonic() - start
        self._limits["some"] = 60 + 5 * self.seconds


def fast_lane(name, source, flags, libraries, more_rounds=False):
    binary = f"./{name}"
    # Without optimisation clang takes half as long as GCC, with it longer.
    compiler = "clang++" if "-O0" in flags and shutil.which("clang++") else "g++"
    errors = "-ferror-limit=0" if compiler == "clang++" else "-fmax-errors=0"
    build = [compiler, "-std=c++20", "-w", errors, "-Iinclude", "-I.", *flags, source, "-o", binary,
             *libraries]
    return Lane(name, build, [binary], more_rounds)


def object_of(source):
    return source.replace("/", "_").replace(".cc", ".o")


def compile_unchanged(directory, *options):
    """Compiles the sources that no mutant of cache/ changes."""
    for source in UNCHANGED:
        subprocess.run(["g++", "-std=c++20", "-w", "-Iinclude", "-I.", "-O0", *options, "-c", source,
                        "-o", object_of(source)], check=True, cwd=directory)


def package_libraries(*packages):
    return subprocess.run(["pkg-config", "--libs", *packages], capture_output=True, check=True,
                          text=True).stdout.split()


def make_lanes():
    lanes = {}
    libraries = package_libraries("absl_statusor")
    for source in sorted(glob.glob("tests/model/*_model_test.cc")):
        model = os.path.basename(source)[:-len("_model_test.cc")]
        lanes[model] = fast_lane(model + "_model_test", source, ["-Og", "-U_FORTIFY_SOURCE"],
                                 libraries, more_rounds=True)
    libraries = package_libraries("absl_hash", "absl_strings", "absl_statusor", "absl_time",
                                  "absl_str_format")
    for name in CONTAINER_TESTS + MAP_TESTS + CACHE_TESTS + TIER_TESTS + REFERENCE_TESTS:
        scripts = [] if not name.endswith("/script_test") else [
            source for source in sorted(glob.glob("tests/script/*.cc"))
            if source != f"{name}.cc"
        ]
        lanes[name] = fast_lane(os.path.basename(name), f"{name}.cc",
                                ["-O0", *scripts, *(object_of(source) for source in UNCHANGED)],
                                [*libraries, "-lgtest", "-lgtest_main", "-lpthread"])
    for name in ADDRESS_TESTS:
        lanes[name + ADDRESS] = fast_lane(
            os.path.basename(name) + "_with_address_sanitizer", f"{name}.cc",
            ["-O0", "-fsanitize=address", *(object_of(source) for source in UNCHANGED)],
            [*libraries, "-lgtest", "-lgtest_main", "-lpthread"])
    lanes["reference_counts_overflow"] = fast_lane(
        "reference_counts_overflow_test",
        "tests/weakref/internal/reference_counts_overflow_test.cc", ["-O0"],
        ["-lgtest", "-lgtest_main", "-lpthread"])
    return lanes


def lanes_for(mutant, lanes):
    """The names of the lanes that look at the mutant: those made for its header, then the quick ones."""
    quick_first = lambda names: sorted(names, key=lambda name: lanes[name].seconds)
    if mutant.header.startswith("cache/"):
        header = os.path.basename(mutant.header)
        last = []
        if mutant.header.startswith(CACHE_FOLDERS):
            tests = CACHE_TESTS
            last = [name + ADDRESS for name in ADDRESS_TESTS]
        elif mutant.header.startswith("cache/internal/tier/"):
            tests = TIER_TESTS
        elif mutant.header.startswith(MAP_FOLDERS) or "concurrent" in header:
            tests = MAP_TESTS + CACHE_TESTS
        else:
            tests = CONTAINER_TESTS
        return CACHE_MODELS_OF.get(header, []) + quick_first(tests) + quick_first(last)
    first = LANES_OF.get(os.path.basename(mutant.header), [])
    others = CONTAINER_TESTS + MAP_TESTS + CACHE_TESTS + TIER_TESTS + REFERENCE_TESTS
    others += [name + ADDRESS for name in ADDRESS_TESTS]
    return [*first, *quick_first(name for name in lanes if name not in first + others),
            *quick_first(REFERENCE_TESTS)]


class Mutated:
    """Within its context the header in a directory is mutated."""

    def __init__(self, mutant, directory):
        self._mutant = mutant
        self._path = os.path.join(directory, mutant.header)
        with open(self._path, encoding="utf-8") as file:
            self._original = file.read()

    def __enter__(self):
        mutant = self._mutant
        self._write(self._original[:mutant.start] + mutant.replacement +
                    self._original[mutant.end:])

    def __exit__(self, *_):
        self._write(self._original)

    def _write(self, text):
        with open(self._path, "w", encoding="utf-8") as file:
            file.write(text)


class SwitchedProject:
    """A copy of the project with as many of the mutants in it as can be, each behind a switch."""

    def __init__(self, directory, mutants):
        self.directory = directory
        self._numbers = {mutant: number for number, mutant in enumerate(mutants, 1)}
        self._sources = {}
        self._forms = {}  # of each mutant, those that are left to try, the best one first
        for mutant, number in self._numbers.items():
            if mutant.header not in self._sources:
                with open(mutant.header, encoding="utf-8") as file:
                    self._sources[mutant.header] = mutation_switches.Source(file.read())
            source = self._sources[mutant.header]
            self._forms[mutant] = list(
                source.switches(number, mutant.start, mutant.end, mutant.replacement))
        copy_project(directory)
        with open(os.path.join(directory, SWITCHES), "w", encoding="utf-8") as file:
            file.write(mutation_switches.HEADER)

    def number_of(self, mutant):
        """Of the switch of a mutant, or None if it has none."""
        return self._numbers[mutant] if self._forms[mutant] else None

    def build(self, lanes, jobs):
        """Builds the lanes; gives up what does not compile as a switch: most of it in the first few."""
        first = lanes[::8]
        self._build_all(first, jobs)
        self._build_all([lane for lane in lanes if lane not in first], jobs)

    def _build_all(self, lanes, jobs):
        while lanes:
            rendered = self._write()
            with concurrent.futures.ThreadPoolExecutor(jobs) as workers:
                errors = list(workers.map(lambda lane: lane.build(self.directory, True), lanes))
            failed = [(lane, error) for lane, error in zip(lanes, errors) if error is not None]
            wrong = {mutant for _, error in failed for mutant in self._wrong_ones(error, rendered)}
            if failed and not wrong:
                sys.exit(f"does not compile with switches: {failed[0][0].name}\n{failed[0][1][:4000]}")
            for mutant in wrong:
                self._forms[mutant].pop(0)
            lanes = [lane for lane, _ in failed]
            if lanes:
                print(f"{len(wrong)} mutants are no switches: {len(lanes)} tests to compile again", flush=True)

    def _write(self):
        """Writes all headers; returns the text of each."""
        rendered = {}
        for header, source in self._sources.items():
            chosen = []
            for mutant, forms in self._forms.items():
                if mutant.header != header:
                    continue
                while forms and any(mutation_switches.crosses(forms[0], other) for other in chosen):
                    forms.pop(0)
                chosen += forms[:1]
            rendered[header] = mutation_switches.render(source.text, chosen)
            with open(os.path.join(self.directory, header), "w", encoding="utf-8") as file:
                file.write(rendered[header])
        return rendered

    def _wrong_ones(self, errors, rendered):
        """The mutants in whose switches the compiler has found errors."""
        mutants = {number: mutant for mutant, number in self._numbers.items()}
        place = re.compile(r"^(?:\./)?(?:include/weakcache/)?((?:weakref|cache)/\S+?):(\d+):.*error:",
                           re.MULTILINE)
        for header, line in place.findall(errors):
            numbers = mutation_switches.mutants_of_line(rendered.get(header, ""), int(line))
            if numbers:
                yield mutants[numbers[0]]


class Gate:
    """Runs the lanes on one mutant after the other, several at a time."""

    def __init__(self, explanations, jobs, root):
        self._explanations = explanations
        self._jobs = jobs
        self._root = root
        self._lanes = make_lanes()
        self._printing = threading.Lock()
        self.counts = collections.Counter()

    def run(self, mutants):
        project = SwitchedProject(os.path.join(self._root, "switched"), mutants)
        compile_unchanged(project.directory, "-include", SWITCHES)
        used = [
            lane for name, lane in self._lanes.items()
            if any(name in lanes_for(mutant, self._lanes) for mutant in mutants)
        ]
        project.build(used, self._jobs)
        switched = [mutant for mutant in mutants if project.number_of(mutant) is not None]
        print(f"{len(switched)} of {len(mutants)} mutants are switches in {len(used)} tests", flush=True)
        with concurrent.futures.ThreadPoolExecutor(self._jobs) as workers:
            list(workers.map(lambda lane: lane.check_baseline(project.directory), used))
            list(workers.map(lambda mutant: self._try_switched(mutant, project), switched))
        self._run_others([mutant for mutant in mutants if project.number_of(mutant) is None])

    def _run_others(self, mutants):
        """Compiles each mutant on its own."""
        free = queue.SimpleQueue()
        for job in range(self._jobs if mutants else 0):
            directory = os.path.join(self._root, str(job))
            copy_project(directory)
            compile_unchanged(directory)
            free.put(directory)

        def run_one(mutant):
            directory = free.get()
            try:
                self._try_compiled(mutant, directory)
            finally:
                free.put(directory)

        with concurrent.futures.ThreadPoolExecutor(self._jobs) as workers:
            list(workers.map(run_one, mutants))

    def _try_switched(self, mutant, project):
        number = project.number_of(mutant)
        self._report(mutant, self._run_lanes(
            mutant, lambda lane, rounds: lane.find_failure(project.directory, rounds, number)))

    def _try_compiled(self, mutant, directory):
        def find_failure(lane, rounds):
            if rounds == "some" and lane.build(directory, False) is not None:
                raise DoesNotCompile(lane.name)
            return lane.find_failure(directory, rounds)

        try:
            with Mutated(mutant, directory):
                self._report(mutant, self._run_lanes(mutant, find_failure))
        except DoesNotCompile as error:
            self._print(mutant, f"{DOES_NOT_COMPILE}: {error}")
            self.counts[DOES_NOT_COMPILE] += 1

    def _run_lanes(self, mutant, find_failure):
        """The same tests with all rounds only for what they have not noticed in some."""
        names = lanes_for(mutant, self._lanes)
        more = [name for name in names if self._lanes[name].has_more_rounds]
        for rounds, names in [("some", names), ("all", more)]:
            for name in names:
                failure = find_failure(self._lanes[name], rounds)
                if failure == TIMEOUT and mutant.id in self._explanations:
                    # What changes nothing only met a busy machine.
                    failure = find_failure(self._lanes[name], rounds)
                if failure is not None:
                    return f"{self._lanes[name].name}: {failure}" if failure == TIMEOUT else failure
        return None

    def _report(self, mutant, failure):
        explained = mutant.id in self._explanations
        if failure is None:
            outcome = SURVIVED_EXPLAINED if explained else SURVIVED
        else:
            outcome = KILLED_EXPLAINED if explained else KILLED
        self.counts[outcome] += 1
        self._print(mutant, outcome + (f" by {failure}" if failure else ""))

    def _print(self, mutant, outcome):
        with self._printing:
            print(f"{mutant.id}: {outcome}", flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(prog="tools/mutation_gate.sh")
    parser.add_argument("--list", action="store_true", help="print the ids of the mutants")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time")
    parser.add_argument("words", nargs="*", help="only mutants whose id contains one of these")
    return parser.parse_args()


def copy_project(directory):
    for name in COPIED:
        shutil.copytree(name, os.path.join(directory, name), symlinks=True)


def run_gate(mutants, explanations, jobs):
    with tempfile.TemporaryDirectory(prefix="mutation_gate.", ignore_cleanup_errors=True) as root:
        gate = Gate(explanations, jobs, root)
        gate.run(mutants)
    return gate.counts


def main():
    arguments = parse_arguments()
    explanations = read_explanations()
    mutants = [*order_mutants(), *recheck_mutants()]
    unknown = explanations.keys() - {mutant.id for mutant in mutants}
    if arguments.words:
        mutants = [mutant for mutant in mutants if any(w in mutant.id for w in arguments.words)]
    if arguments.list:
        print("\n".join(mutant.id for mutant in mutants))
        return 0
    start = time.monotonic()
    counts = run_gate(mutants, explanations, arguments.jobs)
    for mutant in sorted(unknown):
        print(f"{mutant}: explained in {SURVIVORS}, but there is no such mutant")
    print(f"{len(mutants)} mutants: {counts[KILLED]} killed, {counts[SURVIVED_EXPLAINED]} survived "
          f"as explained, {counts[SURVIVED]} survived, {counts[DOES_NOT_COMPILE]} do not compile; "
          f"{counts[KILLED_EXPLAINED] + len(unknown)} explanations to remove; "
          f"{(time.monotonic() - start) / 60:.1f} min")
    bad = counts[SURVIVED] + counts[DOES_NOT_COMPILE] + counts[KILLED_EXPLAINED] + len(unknown)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
