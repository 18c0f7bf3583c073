// SPDX-License-Identifier: Apache-2.0
// Every public header compiles on its own, with and without exceptions: that is checked by building
// what this depends on (tests/support/public_headers.bzl).
int main() { return 0; }
