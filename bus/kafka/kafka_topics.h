// What a topic has on the cluster, against what it should have.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "core/result.h"

struct rd_kafka_s;

namespace leat::bus::kafka {

struct TopicWishes {
  std::string name;       // on the cluster
  int64_t retention_ms;   // -1: for ever
  int64_t message_bytes;  // at least so much
  int replication = -1;   // -1: any
  int replicas = 0;       // that it has
};

// Asks the cluster. May this user not see the configuration, then it is taken as it is. Errors:
// kConflict (what it has, what was wanted, and what to do), kUnavailable.
Status CheckTopic(rd_kafka_s* handle, const TopicWishes& wishes, std::chrono::milliseconds timeout);

}  // namespace leat::bus::kafka
