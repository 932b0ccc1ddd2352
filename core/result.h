// Errors as values. No exception crosses a folder: what throws is caught where it is called.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace leat::core {

// What went wrong, as far as the caller's next step depends on it.
enum class ErrorClass : uint8_t {
  kInvalid,      // the input is wrong: fix it, do not retry
  kNotFound,     // what was asked for is not there
  kConflict,     // the state forbids it: another version, another content, another owner
  kUnavailable,  // a part is not there now: retry with backoff
  kExhausted,    // a stated limit was reached, or the disk is full
  kCorrupt,      // stored bytes do not check: stop and restore
  kUnsupported,  // a newer format, or something this build or transport cannot do
  kInternal,     // a defect of ours
};

// The lower-case name: "invalid", "not_found", ...
std::string_view ErrorClassName(ErrorClass error_class);

// An operating error. `message` says what happened to which thing; `remedy` what the reader should do.
struct [[nodiscard]] Error {
  ErrorClass error_class = ErrorClass::kInternal;
  std::string message;
  std::string remedy;

  bool Retryable() const { return error_class == ErrorClass::kUnavailable; }
  // "message (remedy)", or the message alone.
  std::string Text() const;
  // The same error with "context: " before its message.
  Error WithContext(std::string_view context) const;
};

template <typename T>
using Result = std::expected<T, Error>;
using Status = std::expected<void, Error>;

inline std::unexpected<Error> Fail(ErrorClass error_class, std::string message,
                                   std::string remedy = {}) {
  return std::unexpected(Error{error_class, std::move(message), std::move(remedy)});
}
inline std::unexpected<Error> Invalid(std::string message, std::string remedy = {}) {
  return Fail(ErrorClass::kInvalid, std::move(message), std::move(remedy));
}

// Ends the process with the place and the text: for programmer mistakes, in release builds too.
[[noreturn]] void AssertFailed(const char* file, int line, const char* condition);

}  // namespace leat::core

namespace leat {
using core::Error;
using core::ErrorClass;
using core::Fail;
using core::Invalid;
using core::Result;
using core::Status;
}  // namespace leat

#define LEAT_ASSERT(condition) \
  ((condition) ? (void)0 : ::leat::core::AssertFailed(__FILE__, __LINE__, #condition))

#define LEAT_CONCAT_INNER(a, b) a##b
#define LEAT_CONCAT(a, b) LEAT_CONCAT_INNER(a, b)

// Returns the error of `expression` (a Result or Status) to the caller, if it has one.
#define LEAT_TRY(expression)                                               \
  do {                                                                     \
    if (auto leat_status = (expression); !leat_status) [[unlikely]]        \
      return std::unexpected(std::move(leat_status).error());              \
  } while (false)

// LEAT_ASSIGN(auto x, F()): x is F's value, or F's error is returned to the caller.
#define LEAT_ASSIGN(declaration, expression)                               \
  auto LEAT_CONCAT(leat_result_, __LINE__) = (expression);                 \
  if (!LEAT_CONCAT(leat_result_, __LINE__)) [[unlikely]]                   \
    return std::unexpected(std::move(LEAT_CONCAT(leat_result_, __LINE__)).error()); \
  declaration = std::move(*LEAT_CONCAT(leat_result_, __LINE__))
