#include "eventstore/reader.h"

#include <algorithm>

namespace leat::eventstore {
namespace {

constexpr size_t kPositionsAhead = 256;

}  // namespace

bool MatchesPattern(std::string_view pattern, std::string_view text) {
  if (pattern.empty()) return true;
  if (pattern.back() == '*') return text.starts_with(pattern.substr(0, pattern.size() - 1));
  return text == pattern;
}

Reader::Reader(const Log* log, ReadOptions options)
    : log_(log),
      options_(std::move(options)),
      cursor_(log->Read(options_.from_position)),
      version_(options_.from_version) {}

Result<bool> Reader::Next(LogEvent* event, events::EventView* view) {
  for (;;) {
    LEAT_ASSIGN(const bool more, options_.stream.empty() ? Step(event) : StepInStream(event));
    if (!more) return false;
    if (event->purged) continue;
    if (!options_.category.empty() && events::CategoryOf(event->stream) != options_.category) {
      continue;
    }
    LEAT_ASSIGN(*view, event->Decode());
    if (MatchesPattern(options_.type, view->type)) return true;
  }
}

Result<bool> Reader::Step(LogEvent* event) {
  if (options_.direction == Direction::kBackward) return cursor_.Previous(event);
  seen_size_ = log_->size();
  return cursor_.Next(event);
}

Result<bool> Reader::StepInStream(LogEvent* event) {
  const bool forward = options_.direction == Direction::kForward;
  if (!begun_ && !forward) {  // from here on what is appended lies behind
    LEAT_ASSIGN(const uint64_t newest, log_->PublishedVersion(options_.stream));
    version_ = std::min(version_, newest + 1);
  }
  begun_ = true;
  if (at_ == positions_.size()) {
    at_ = 0;
    seen_size_ = log_->size();  // before the look-up: what comes after it wakes Wait
    LEAT_ASSIGN(positions_, forward ? log_->StreamPositions(options_.stream, version_,
                                                            kPositionsAhead)
                                    : log_->StreamPositionsBackward(options_.stream, version_,
                                                                    kPositionsAhead));
    if (positions_.empty()) return false;
    if (forward) {
      version_ += positions_.size();
    } else {
      version_ -= positions_.size();
    }
  }
  cursor_.Seek(positions_[at_++]);
  LEAT_ASSIGN(const bool found, cursor_.Next(event));
  LEAT_ASSERT(found);
  return true;
}

bool Reader::Wait(std::chrono::milliseconds timeout) const {
  LEAT_ASSERT(options_.direction == Direction::kForward);
  return log_->WaitFor(seen_size_, timeout);
}

}  // namespace leat::eventstore
