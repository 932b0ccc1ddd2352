#include "runtime/relay.h"

#include <utility>

#include "core/log.h"
#include "runtime/retry.h"

namespace leat::runtime {
namespace {

constexpr size_t kBatchBytesMax = 1u << 20;
constexpr auto kWait = std::chrono::milliseconds(100);

}  // namespace

Relay::Relay(const eventstore::Log* log, bus::Transport* transport, std::string topic,
             uint32_t partition)
    : log_(log), transport_(transport), topic_(std::move(topic)), partition_(partition) {}

Relay::~Relay() = default;

Status Relay::FindEnd() {
  LEAT_ASSIGN(const auto end, transport_->End(topic_, partition_));
  if (end.offset > log_->size()) {
    return Fail(ErrorClass::kConflict,
                "topic " + topic_ + " has " + std::to_string(end.offset) +
                    " events, its shard's log only " + std::to_string(log_->size()),
                "rebuild the shard from its topic");
  }
  published_ = end.offset;
  status_.Advance(published_);
  return {};
}

Status Relay::Start() {
  LEAT_TRY(FindEnd());
  thread_ = std::jthread([this](std::stop_token stop) {
    auto status = Run(stop);
    if (!status) core::LogError("relay " + topic_, "stopped: " + status.error().Text());
    status_.Stop(std::move(status));
  });
  return {};
}

Status Relay::Run(std::stop_token stop) {
  std::stop_callback wake(stop, [this] { log_->Wake(); });
  auto cursor = log_->Read(published_);
  while (!stop.stop_requested()) {
    if (!log_->WaitFor(published_, kWait)) continue;
    bool again = false;
    const auto publish = [&]() -> Status {
      // What came of a try that failed is for the topic to tell.
      if (std::exchange(again, true)) LEAT_TRY(FindEnd());
      return PublishNext(&cursor);
    };
    LEAT_TRY(Retry(stop, "relay " + topic_, publish));
  }
  return {};
}

Status Relay::PublishNext(eventstore::LogCursor* cursor) {
  cursor->Seek(published_);
  eventstore::LogEvent event;
  std::vector<events::Event> batch;
  size_t bytes = 0;
  bool whole = true;  // the batch ends with a decision
  while (bytes < kBatchBytesMax || !whole) {
    LEAT_ASSIGN(const bool more, cursor->Next(&event));
    if (!more) break;
    LEAT_ASSIGN(const auto view, event.Decode());
    batch.emplace_back(view);
    bytes += event.envelope.size();
    whole = !view.cause || view.cause->n == view.cause->m;
  }
  if (batch.empty()) return {};
  const uint64_t next = published_ + batch.size();
  LEAT_TRY(transport_->PublishAt(topic_, partition_, published_, std::move(batch)));
  published_ = next;
  status_.Advance(published_);
  return {};
}

}  // namespace leat::runtime
