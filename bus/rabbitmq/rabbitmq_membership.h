// Membership in a group by leases: for every partition there is a queue with a single active
// consumer and one message in it, the token. All members consume it; whoever has the token, holds
// the partition (docs/transports.md).
#pragma once

#include <memory>
#include <string_view>

#include "bus/bus.h"
#include "bus/rabbitmq/rabbitmq_transport.h"

namespace leat::bus::rabbitmq {

// One connection with a thread of its own, so it lasts however long its owner is busy. Commit does
// nothing: RabbitMQ knows no position of a group. Destroying it gives back everything at once.
// Errors: kConflict (a member of that name is there, still after three heartbeats), kInvalid,
// kUnavailable.
Result<std::unique_ptr<Membership>> JoinGroup(const RabbitMqOptions& options,
                                              const TopicInfo& topic, std::string_view group,
                                              std::string_view instance);

}  // namespace leat::bus::rabbitmq
