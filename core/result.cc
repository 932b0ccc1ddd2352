#include "core/result.h"

#include <cstdio>
#include <cstdlib>

namespace leat::core {

std::string_view ErrorClassName(ErrorClass error_class) {
  switch (error_class) {
    case ErrorClass::kInvalid: return "invalid";
    case ErrorClass::kNotFound: return "not_found";
    case ErrorClass::kConflict: return "conflict";
    case ErrorClass::kUnavailable: return "unavailable";
    case ErrorClass::kExhausted: return "exhausted";
    case ErrorClass::kCorrupt: return "corrupt";
    case ErrorClass::kUnsupported: return "unsupported";
    case ErrorClass::kInternal: return "internal";
  }
  return "internal";
}

std::string Error::Text() const {
  return remedy.empty() ? message : message + " (" + remedy + ")";
}

Error Error::WithContext(std::string_view context) const {
  return Error{error_class, std::string(context) + ": " + message, remedy};
}

void AssertFailed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace leat::core
