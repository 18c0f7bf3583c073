# SPDX-License-Identifier: Apache-2.0
#
# weakcache_find_abseil(MISSING [GLOBAL] NAME…)
#
# Defines the imported target weakcache::abseil, which stands for absl::NAME…, and sets the variable
# that MISSING names to what was not found. Takes targets that the project has already, then
# find_package(absl), then pkg-config, for systems whose package of Abseil lacks CMake's file. With
# GLOBAL the targets exist outside of the calling directory, too. Is installed: what finds Abseil for
# this build also finds it for an application that uses the result.

macro(weakcache_find_abseil weakcache_missing_variable)
  # A macro: find_package(absl) sets variables of the caller, and its targets are of its directory.
  set(weakcache_absl_names ${ARGN})
  set(weakcache_absl_global "")
  if("GLOBAL" IN_LIST weakcache_absl_names)
    list(REMOVE_ITEM weakcache_absl_names GLOBAL)
    set(weakcache_absl_global GLOBAL)
  endif()
  if(NOT TARGET weakcache::abseil)
    _weakcache_absl_missing(${weakcache_missing_variable} ${weakcache_absl_names})
    if(${weakcache_missing_variable})
      find_package(absl CONFIG QUIET)
      _weakcache_absl_missing(${weakcache_missing_variable} ${weakcache_absl_names})
      if(weakcache_absl_global AND NOT ${weakcache_missing_variable})
        _weakcache_absl_make_global()
      endif()
    endif()
    if(NOT ${weakcache_missing_variable})
      list(TRANSFORM weakcache_absl_names PREPEND "absl::" OUTPUT_VARIABLE weakcache_absl_libraries)
    else()
      find_package(PkgConfig QUIET)
      if(PkgConfig_FOUND)
        list(TRANSFORM weakcache_absl_names PREPEND "absl_" OUTPUT_VARIABLE weakcache_absl_modules)
        pkg_check_modules(WEAKCACHE_ABSL QUIET
          IMPORTED_TARGET ${weakcache_absl_global} ${weakcache_absl_modules})
        if(WEAKCACHE_ABSL_FOUND)
          set(${weakcache_missing_variable} "")
          set(weakcache_absl_libraries PkgConfig::WEAKCACHE_ABSL)
        endif()
      endif()
    endif()
    if(NOT ${weakcache_missing_variable})
      add_library(weakcache::abseil INTERFACE IMPORTED ${weakcache_absl_global})
      set_target_properties(weakcache::abseil PROPERTIES
        INTERFACE_LINK_LIBRARIES "${weakcache_absl_libraries}")
    endif()
  else()
    set(${weakcache_missing_variable} "")
  endif()
endmacro()

# Sets a variable to the names of the targets absl::NAME that do not exist.
function(_weakcache_absl_missing variable)
  set(missing "")
  foreach(name IN LISTS ARGN)
    if(NOT TARGET absl::${name})
      list(APPEND missing absl::${name})
    endif()
  endforeach()
  set(${variable} "${missing}" PARENT_SCOPE)
endfunction()

function(_weakcache_absl_make_global)
  get_property(imported DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS imported)
    if(target MATCHES "^(absl|Threads)::")
      set_target_properties(${target} PROPERTIES IMPORTED_GLOBAL TRUE)
    endif()
  endforeach()
endfunction()
