// What the transports' groups have in common.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/result.h"

namespace leat::bus {

// Of the name of a group and of a member: both stand in names on brokers.
inline constexpr size_t kGroupBytesMax = 100;

// Topic, group and member as Transport::Join takes them. Errors: kInvalid, naming the one that is
// wrong.
Status CheckGroup(std::string_view topic, std::string_view group, std::string_view instance);

// The answer to Membership::Release of what the share does not name so.
std::unexpected<Error> NotToBeReleased(uint32_t partition);
// Two members with one name: what the older or the newer is told.
std::unexpected<Error> SameInstance(std::string_view group, std::string_view instance);

}  // namespace leat::bus
