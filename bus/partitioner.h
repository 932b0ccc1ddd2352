// Which partition a key belongs to: murmur2, as Kafka's Java client has it, on every transport.
#pragma once

#include <cstdint>
#include <string_view>

#include "events/event.h"

namespace leat::bus {

// The 32-bit murmur2 of org.apache.kafka.common.utils.Utils.
uint32_t Murmur2(std::string_view key);

inline uint32_t PartitionOf(std::string_view key, uint32_t partitions) {
  return (Murmur2(key) & 0x7fffffff) % partitions;
}

// What an event is partitioned by: its partitionkey, else subject, else id.
std::string_view KeyOf(const events::EventView& event);

}  // namespace leat::bus
