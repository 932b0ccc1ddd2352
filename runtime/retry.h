// Trying again what is not there now.
#pragma once

#include <chrono>
#include <functional>
#include <stop_token>
#include <string_view>

#include "bus/bus.h"
#include "core/result.h"

namespace leat::runtime {

// A pause doubles from the first to the second.
inline constexpr auto kRetryPauseMin = std::chrono::milliseconds(50);
inline constexpr auto kRetryPauseMax = std::chrono::milliseconds(5'000);

// Calls until it is done or fails for good. What may be retried (kUnavailable) is, with pauses, until stop is requested:
// then its last error is returned. `who` is for the log.
Status Retry(const std::stop_token& stop, std::string_view who,
             const std::function<Status()>& call);

// Polls with Retry. With a timeout of 0 the caller has something else to do: then a poll that may be retried gives
// nothing for now.
Status PollWithRetry(const std::stop_token& stop, std::string_view who,
                     bus::Subscription* subscription, const bus::PollLimits& limits,
                     bus::MessageBatch* batch);

}  // namespace leat::runtime
