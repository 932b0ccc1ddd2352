#include "runtime/retry.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <string>

#include "core/log.h"

namespace leat::runtime {

Status Retry(const std::stop_token& stop, std::string_view who,
             const std::function<Status()>& call) {
  std::mutex mutex;
  std::condition_variable_any stopped;
  for (auto pause = kRetryPauseMin;; pause = std::min(pause * 2, kRetryPauseMax)) {
    auto status = call();
    if (status || !status.error().Retryable()) return status;
    core::LogWarning(who, "tried again in " + std::to_string(pause.count()) +
                              " ms: " + status.error().Text());
    std::unique_lock lock(mutex);
    stopped.wait_for(lock, stop, pause, [] { return false; });
    if (stop.stop_requested()) return status;
  }
}

Status PollWithRetry(const std::stop_token& stop, std::string_view who,
                     bus::Subscription* subscription, const bus::PollLimits& limits,
                     bus::MessageBatch* batch) {
  const auto poll = [&] { return subscription->Poll(limits, batch); };
  if (limits.timeout.count() > 0) return Retry(stop, who, poll);
  auto status = poll();
  if (status || !status.error().Retryable()) return status;
  batch->Clear();
  return {};
}

}  // namespace leat::runtime
