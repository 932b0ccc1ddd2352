// Membership in a consumer group of Kafka: one handle that holds the membership and reads nothing.
// Its partitions are paused; their events are read by subscriptions, from the shards' positions.
#pragma once

#include <memory>
#include <string>

#include "bus/bus.h"
#include "bus/kafka/kafka_handle.h"

namespace leat::bus::kafka {

// As the cluster knows them.
struct GroupNames {
  std::string topic;
  uint32_t partitions = 0;  // of the topic
  std::string group;        // group.id
  std::string instance;     // group.instance.id: the member is static
};

// A thread of its own serves the membership, so it lasts however long its owner is busy; once the
// owner calls nothing any more it holds its partitions all the same. `instance` is how the user
// knows the member. Destroying it sends no farewell: the member has its partitions back at once
// when it comes back within session.timeout.ms (also what it had been asked to release: the group
// then shares anew), and others get them after that. It uses `make` as long as
// it lives. Errors: kInvalid.
Result<std::unique_ptr<Membership>> JoinGroup(const MakeConsumer& make, const GroupNames& names,
                                              std::string instance);

}  // namespace leat::bus::kafka
