# SPDX-License-Identifier: Apache-2.0
#
# weakcache_find_tier_libraries(MISSING NAME…)
#
# Defines the imported target weakcache::NAME for each of hiredis, rocksdb, xxhash and zstd that is
# asked for and found, and sets the variable that MISSING names to the others. Is installed: static
# tiers are linked with the same.

function(weakcache_find_tier_libraries missing_variable)
  set(header_hiredis hiredis/hiredis.h)
  set(header_rocksdb rocksdb/db.h)
  set(header_xxhash xxhash.h)
  set(header_zstd zstd.h)
  set(missing "")
  foreach(name IN LISTS ARGN)
    find_path(WEAKCACHE_${name}_INCLUDE_DIR ${header_${name}})
    find_library(WEAKCACHE_${name}_LIBRARY ${name})
    mark_as_advanced(WEAKCACHE_${name}_INCLUDE_DIR WEAKCACHE_${name}_LIBRARY)
    if(NOT WEAKCACHE_${name}_INCLUDE_DIR OR NOT WEAKCACHE_${name}_LIBRARY)
      list(APPEND missing ${name})
    elseif(NOT TARGET weakcache::${name})
      add_library(weakcache::${name} INTERFACE IMPORTED GLOBAL)
      set_target_properties(weakcache::${name} PROPERTIES
        INTERFACE_INCLUDE_DIRECTORIES "${WEAKCACHE_${name}_INCLUDE_DIR}"
        INTERFACE_LINK_LIBRARIES "${WEAKCACHE_${name}_LIBRARY}")
    endif()
  endforeach()
  set(${missing_variable} "${missing}" PARENT_SCOPE)
endfunction()
