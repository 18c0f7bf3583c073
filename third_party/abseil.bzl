# SPDX-License-Identifier: Apache-2.0

"""Abseil's public Bazel labels and the pkg-config modules that stand behind them."""

# The module of "absl/p:t" is absl_t, as CMake names it, unless _OTHER_MODULES says otherwise.
# Newer targets are listed as well: those that the installed version lacks are left out.
_TARGETS = {
    "absl/algorithm": ["algorithm", "container"],
    "absl/base": [
        "base",
        "config",
        "core_headers",
        "dynamic_annotations",
        "log_severity",
        "no_destructor",
        "nullability",
        "prefetch",
    ],
    "absl/cleanup": ["cleanup"],
    "absl/container": [
        "btree",
        "fixed_array",
        "flat_hash_map",
        "flat_hash_set",
        "hash_container_defaults",
        "inlined_vector",
        "node_hash_map",
        "node_hash_set",
    ],
    "absl/crc": ["crc32c"],
    "absl/debugging": ["failure_signal_handler", "leak_check", "stacktrace", "symbolize"],
    "absl/flags": ["commandlineflag", "config", "flag", "marshalling", "parse", "reflection", "usage"],
    "absl/functional": ["any_invocable", "bind_back", "bind_front", "function_ref", "overload"],
    "absl/hash": ["hash", "hash_testing"],
    "absl/log": [
        "absl_check",
        "absl_log",
        "check",
        "die_if_null",
        "flags",
        "globals",
        "initialize",
        "log",
        "log_entry",
        "log_sink",
        "log_sink_registry",
    ],
    "absl/memory": ["memory"],
    "absl/meta": ["type_traits"],
    "absl/numeric": ["bits", "int128"],
    "absl/random": ["bit_gen_ref", "distributions", "random", "seed_gen_exception", "seed_sequences"],
    "absl/status": ["status", "statusor"],
    "absl/strings": ["cord", "str_format", "string_view", "strings"],
    "absl/synchronization": ["synchronization"],
    "absl/time": ["time"],
    "absl/types": ["any", "compare", "optional", "span", "variant"],
    "absl/utility": ["utility"],
}

_OTHER_MODULES = {
    "absl/algorithm:container": "absl_algorithm_container",
    "absl/flags:commandlineflag": "absl_flags_commandlineflag",
    "absl/flags:config": "absl_flags_config",
    "absl/flags:flag": "absl_flags",
    "absl/flags:marshalling": "absl_flags_marshalling",
    "absl/flags:parse": "absl_flags_parse",
    "absl/flags:reflection": "absl_flags_reflection",
    "absl/flags:usage": "absl_flags_usage",
    "absl/hash:hash_testing": "absl_hash absl_strings absl_variant",  # No module of its own.
    "absl/log:flags": "absl_log_flags",
    "absl/log:globals": "absl_log_globals",
    "absl/log:initialize": "absl_log_initialize",
    "absl/random:bit_gen_ref": "absl_random_bit_gen_ref",
    "absl/random:distributions": "absl_random_distributions",
    "absl/random:random": "absl_random_random",
    "absl/random:seed_gen_exception": "absl_random_seed_gen_exception",
    "absl/random:seed_sequences": "absl_random_seed_sequences",
}

def _modules():
    modules = {}
    for package, names in _TARGETS.items():
        for name in names:
            label = package + ":" + name
            modules[label] = _OTHER_MODULES.get(label, "absl_" + name)
    return modules

ABSEIL_MODULES = _modules()
