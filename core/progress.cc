#include "core/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace leat::core {
namespace {

constexpr auto kTerminalInterval = std::chrono::milliseconds(100);
constexpr auto kPlainInterval = std::chrono::seconds(5);
constexpr int kBarWidth = 24;

std::string Duration(double seconds) {
  char buffer[32];
  const auto whole = static_cast<uint64_t>(seconds + 0.5);
  if (whole >= 3600) {
    std::snprintf(buffer, sizeof buffer, "%uh%02um", static_cast<unsigned>(whole / 3600),
                  static_cast<unsigned>(whole / 60 % 60));
  } else if (whole >= 60) {
    std::snprintf(buffer, sizeof buffer, "%um%02us", static_cast<unsigned>(whole / 60),
                  static_cast<unsigned>(whole % 60));
  } else {
    std::snprintf(buffer, sizeof buffer, "%us", static_cast<unsigned>(whole));
  }
  return buffer;
}

}  // namespace

std::string WithThousands(uint64_t value) {
  std::string out = std::to_string(value);
  for (auto at = static_cast<int>(out.size()) - 3; at > 0; at -= 3) {
    out.insert(static_cast<size_t>(at), ",");
  }
  return out;
}

Progress::Progress(std::string label, std::string unit, uint64_t total)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      terminal_(isatty(STDERR_FILENO) == 1),
      started_(Clock::now()),
      next_print_(started_ + (terminal_ ? Clock::duration(kTerminalInterval) : kPlainInterval)) {}

Progress::~Progress() {
  if (printed_ || terminal_) Print(Clock::now(), true);
}

void Progress::Update(uint64_t done) {
  done_ = done;
  const auto now = Clock::now();
  if (now < next_print_) return;
  next_print_ = now + (terminal_ ? Clock::duration(kTerminalInterval) : kPlainInterval);
  Print(now, false);
}

void Progress::Print(Clock::time_point now, bool last) {
  const double seconds = std::max(1e-3, std::chrono::duration<double>(now - started_).count());
  const double rate = static_cast<double>(done_) / seconds;
  std::string line = label_ + ": ";
  if (total_ > 0) {
    const double share = std::min(1.0, static_cast<double>(done_) / static_cast<double>(total_));
    if (terminal_) {
      const int full = static_cast<int>(share * kBarWidth);
      line += "[" + std::string(full, '#') + std::string(kBarWidth - full, '.') + "] ";
    }
    line += std::to_string(static_cast<int>(share * 100)) + "% ";
  }
  line += WithThousands(done_) + " " + unit_ + ", " + WithThousands(static_cast<uint64_t>(rate)) +
          "/s";
  if (last) {
    line += ", took " + Duration(seconds);
  } else if (total_ > done_ && rate > 0) {
    line += ", ETA " + Duration(static_cast<double>(total_ - done_) / rate);
  }
  std::fprintf(stderr, terminal_ ? "\r\033[K%s%s" : "%s%s", line.c_str(),
               terminal_ && !last ? "" : "\n");
  std::fflush(stderr);
  printed_ = true;
}

}  // namespace leat::core
