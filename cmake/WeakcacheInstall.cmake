# SPDX-License-Identifier: Apache-2.0
# Installs the libraries, their headers, and what find_package and pkg-config read.

include(CMakePackageConfigHelpers)
set(weakcache_cmake_dir "${CMAKE_INSTALL_LIBDIR}/cmake/weakcache")

# Internal headers are installed as well: the public ones include them.
foreach(layer weakref cache)
  if(layer STREQUAL "weakref" OR WEAKCACHE_BUILD_CACHE)
    install(DIRECTORY "${PROJECT_SOURCE_DIR}/${layer}"
      DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/weakcache" FILES_MATCHING PATTERN "*.h")
  endif()
endforeach()

# --- find_package ----------------------------------------------------------------------------------

# A set of targets for each component, since it is loaded only if it is asked for.
install(TARGETS weakcache_weakref EXPORT weakcacheWeakrefTargets)
install(EXPORT weakcacheWeakrefTargets
  NAMESPACE weakcache:: DESTINATION "${weakcache_cmake_dir}")
if(WEAKCACHE_BUILD_CACHE)
  install(TARGETS weakcache EXPORT weakcacheTargets)
  install(EXPORT weakcacheTargets NAMESPACE weakcache:: DESTINATION "${weakcache_cmake_dir}")
endif()
if(weakcache_tiers)
  foreach(name tier ${weakcache_tiers})
    install(TARGETS weakcache_${name} EXPORT weakcache_${name}_targets)
    install(EXPORT weakcache_${name}_targets
      NAMESPACE weakcache:: DESTINATION "${weakcache_cmake_dir}")
  endforeach()
endif()

list(JOIN WEAKCACHE_ABSEIL " " weakcache_abseil_words)
configure_package_config_file(cmake/weakcacheConfig.cmake.in
  "${PROJECT_BINARY_DIR}/weakcacheConfig.cmake" INSTALL_DESTINATION "${weakcache_cmake_dir}")
# Before 1.0.0 a new minor version may change the interface.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/weakcacheConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES
  "${PROJECT_BINARY_DIR}/weakcacheConfig.cmake"
  "${PROJECT_BINARY_DIR}/weakcacheConfigVersion.cmake"
  cmake/WeakcacheAbseil.cmake
  cmake/WeakcacheTiers.cmake
  DESTINATION "${weakcache_cmake_dir}")

# --- pkg-config ------------------------------------------------------------------------------------

# Relative to the file itself, so that `cmake --install --prefix` may choose the folder.
set(weakcache_pc_dir "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
  set(weakcache_pc_prefix "${CMAKE_INSTALL_PREFIX}")
  set(weakcache_pc_libdir "${CMAKE_INSTALL_LIBDIR}")
else()
  file(RELATIVE_PATH weakcache_pc_prefix "/${weakcache_pc_dir}" "/")
  set(weakcache_pc_prefix "\${pcfiledir}/${weakcache_pc_prefix}")
  string(REGEX REPLACE "/$" "" weakcache_pc_prefix "${weakcache_pc_prefix}")
  set(weakcache_pc_libdir "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
endif()
if(IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  set(weakcache_pc_includedir "${CMAKE_INSTALL_INCLUDEDIR}")
else()
  set(weakcache_pc_includedir "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
# The headers use Abseil, so that an application links it itself also where the library is shared.
list(TRANSFORM WEAKCACHE_ABSEIL PREPEND ", absl_" OUTPUT_VARIABLE weakcache_pc_abseil)
list(JOIN weakcache_pc_abseil "" weakcache_pc_abseil)

set(weakcache_pc_files weakcache_weakref)
if(WEAKCACHE_BUILD_CACHE)
  list(APPEND weakcache_pc_files weakcache)
endif()
foreach(name IN LISTS weakcache_pc_files)
  configure_file(cmake/${name}.pc.in "${PROJECT_BINARY_DIR}/${name}.pc" @ONLY)
  install(FILES "${PROJECT_BINARY_DIR}/${name}.pc" DESTINATION "${weakcache_pc_dir}")
endforeach()
foreach(name IN LISTS weakcache_tiers)
  # A shared library has linked them itself.
  set(weakcache_pc_tier_needs "")
  if(NOT BUILD_SHARED_LIBS)
    set(weakcache_pc_tier_needs ", rocksdb, libxxhash, libzstd")
    if(name STREQUAL "redis_tier")
      set(weakcache_pc_tier_needs ", hiredis, libxxhash, libzstd")
    endif()
  endif()
  configure_file(cmake/weakcache_tier.pc.in "${PROJECT_BINARY_DIR}/weakcache_${name}.pc" @ONLY)
  install(FILES "${PROJECT_BINARY_DIR}/weakcache_${name}.pc" DESTINATION "${weakcache_pc_dir}")
endforeach()

# --- gdb -------------------------------------------------------------------------------------------

# The pretty-printers; for shared libraries also where gdb looks for them when it loads one, below the
# folder in which the library is in the end.
install(FILES tools/gdb/weakcache.py DESTINATION "${CMAKE_INSTALL_DATADIR}/weakcache/gdb")
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
  set(weakcache_gdb_libdir "${CMAKE_INSTALL_LIBDIR}")
else()
  set(weakcache_gdb_libdir "\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_LIBDIR}")
endif()
foreach(target IN ITEMS weakcache_weakref weakcache)
  if(TARGET ${target})
    get_target_property(weakcache_type ${target} TYPE)
    if(weakcache_type STREQUAL "SHARED_LIBRARY")
      install(CODE "file(INSTALL FILES \"${PROJECT_SOURCE_DIR}/tools/gdb/weakcache.py\"
        RENAME \"$<TARGET_FILE_NAME:${target}>-gdb.py\"
        DESTINATION \"\${CMAKE_INSTALL_PREFIX}/share/gdb/auto-load${weakcache_gdb_libdir}\")")
    endif()
  endif()
endforeach()

install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")
