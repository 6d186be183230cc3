// SPDX-License-Identifier: Apache-2.0
// One command of the host's.

#ifndef GUEST_AGENT_COMMAND_H_
#define GUEST_AGENT_COMMAND_H_

namespace guest_agent {

// Has the host at the other end of that socket say which, and returns when it is over with both. A command whose host goes is killed. The socket does
// not block.
void RunCommand(int connection);

}  // namespace guest_agent

#endif  // GUEST_AGENT_COMMAND_H_
