#include <cerrno>
#include <cstdio>
#include <cstring>

#include "apps/commands.h"
#include "core/bytes.h"
#include "core/clock.h"
#include "events/position.h"
#include "gateway/api.h"
#include "producers/ingest/chain_feed.h"

namespace leat::apps {
namespace {

int print_error = 0;  // errno of the first failed write; commands print from one thread

template <typename T>
std::string ErrorText(const Result<T>& result) {
  return result ? std::string() : result.error().Text();
}

}  // namespace

bool Print(std::string_view text) {
  if (print_error != 0) return false;
  const bool good = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() &&
                    std::fflush(stdout) == 0;
  if (!good) print_error = errno == 0 ? EIO : errno;
  return good;
}

Status PrintStatus() {
  if (print_error == 0 || print_error == EPIPE) return {};
  return Fail(ErrorClass::kExhausted,
              std::string("writing to standard output: ") + std::strerror(print_error),
              "redirect it to where there is room");
}

std::string CheckBlock(const std::string& text) {
  return text.starts_with("0x") ? ErrorText(core::ParseHash(text))
                                : ErrorText(core::ParseUint64(text));
}
std::string CheckTime(const std::string& text) { return ErrorText(core::ParseTime(text)); }
std::string CheckPosition(const std::string& text) {
  return ErrorText(events::ParsePositions(text));
}
std::string CheckChain(const std::string& text) { return ErrorText(ingest::CheckChainId(text)); }
std::string CheckBytes(const std::string& text) { return ErrorText(ParseBytes(text)); }
std::string CheckRoot(const std::string& text) {
  return ErrorText(gateway::ParseNotedRoots(text));
}

}  // namespace leat::apps
