// Where the project's own files are.
#pragma once

#include <string>

namespace leat::test {

// The top of the source tree, absolute, without a slash at its end. In test_main.cc: it alone is compiled anew for another
// clone, all else comes from ccache.
std::string SourceDir();

}  // namespace leat::test
