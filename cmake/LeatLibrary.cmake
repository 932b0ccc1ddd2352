# leat_library(name SOURCES a.cc b.cc LINK public_targets... PRIVATE third_party_targets...)
#
# One static library per folder. Includes are written from the top of the tree ("core/result.h").
function(leat_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK;PRIVATE" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${ARG_LINK} PRIVATE ${ARG_PRIVATE})
endfunction()
