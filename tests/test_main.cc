// main() of every doctest executable: the program's own log stays out of the output.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "core/log.h"
#include "tests/support/source_dir.h"

std::string leat::test::SourceDir() { return LEAT_SOURCE_DIR; }

int main(int argc, char** argv) {
  leat::core::InitLog(leat::core::LogLevel::kError);
  doctest::Context context(argc, argv);
  return context.run();
}
