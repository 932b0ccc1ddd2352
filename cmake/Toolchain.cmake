# Compiler flags, sanitizers, ccache and mold: everything about how, nothing about what.
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

find_program(LEAT_CCACHE ccache)
if(LEAT_CCACHE)
  # Clones share what was compiled: paths below the source folder count as relative ones.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} ${LEAT_CCACHE})
endif()
find_program(LEAT_MOLD mold)
if(LEAT_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

# Paths in binaries are relative to the build folder, or the clone: run debuggers in one of them.
add_compile_options(-ffile-prefix-map=${CMAKE_SOURCE_DIR}=.)

# Warnings are errors in our code; system headers are exempt because they come in with -isystem.
add_compile_options(-Wall -Wextra -Werror -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -fno-omit-frame-pointer)
# GCC 12 reports false positives of these two from inlined library code.
add_compile_options(-Wno-maybe-uninitialized -Wno-restrict)
set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g1")
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1 -DNDEBUG")

set(LEAT_SANITIZE "" CACHE STRING "Comma-separated sanitizers")
if(LEAT_SANITIZE)
  add_compile_options(-fsanitize=${LEAT_SANITIZE} -fno-sanitize-recover=all)
  if(LEAT_SANITIZE MATCHES thread)
    add_compile_options(-Wno-tsan)  # Asio has fences, which GCC's sanitizer only warns of
  endif()
  add_link_options(-fsanitize=${LEAT_SANITIZE})
endif()
