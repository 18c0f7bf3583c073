# SPDX-License-Identifier: Apache-2.0

"""Libraries of this project, whose headers are found under weakcache/."""

load("@rules_cc//cc:defs.bzl", "cc_library")

def weakcache_library(name, **kwargs):
    """A cc_library whose header //cache:x.h is included as "weakcache/cache/x.h".

    Args:
      name: of the library.
      **kwargs: of cc_library.
    """
    cc_library(name = name, include_prefix = "weakcache/" + native.package_name(), **kwargs)
