# SPDX-License-Identifier: MIT
"""Files and folders from one node to another: what `qg send` and `qg receive` speak.

A transfer is one stream with its offer and one to eight *lanes*, streams that carry files side by side. The metadata of
each is a byte, 0 for the offer and 1 for a lane, and 16 bytes that the sender has drawn: the same for all streams of
the transfer, and again when it comes back after a break. All that is said is frames, numbers big-endian:

    frame    u8 kind | u32 length, 262,144 at most | body

    offer    sender     1 OFFER   u8 version 1 | u64 entries | u64 bytes | u8 n | n x (u16 length | name)
             receiver   2 ANSWER  u8 1, or u8 0 | text: why not
    lane     sender     3 PLAN    up to 256 x (u8 flags | u64 size | u16 length | path)
             receiver   4 WANT    for each entry: u8 0 its bytes, 1 its bytes from u64 on if the 32 that follow hash
                                  what comes before, 2 its hash only, 3 nothing: u16 length | text: why, 4 nothing:
                                  a folder
             sender     5 START   u64: where the bytes begin, what was asked for or 0 (after wish 1 only)
                        6 CHUNK   bytes of the file
                        7 END     BLAKE2b-256 of all of it
                        8 DROP    text: why there is no END
             receiver   9 FAILED  u16 entry | u8 1 if its bytes are wanted after all | text: why
                       10 DONE    everything of the plan has come, or failed

Flags are 1 folder, 2 executable, 4 "take it although another file is there". Names stand b"/" between them in a path,
bytes as the sender's disk has them. A sender has a few plans out ahead of their files, so that many short files cost no
round trip each; the files follow in the order of the plan, those only that something is wanted of. After a FAILED the
sender ends that file with DROP or END and goes on with the next. An entry whose bytes are wanted after all comes in
another plan with flag 4. Lanes end when all plans are DONE, the offer after them; both sides finish.

The hash of a file that is here is never told, only compared: a sender learns whether it has the same one. Of an
unfinished file it is told, for it came from a sender. Text is UTF-8, 300 bytes at most.
"""

from qg.extenders.files.landing import Existing as Existing
from qg.extenders.files.names import name_shown as name_shown
from qg.extenders.files.receiver import FileReceiver as FileReceiver
from qg.extenders.files.receiver import Received as Received
from qg.extenders.files.receiver import Request as Request
from qg.extenders.files.sender import FileSender as FileSender
from qg.extenders.files.sender import Sent as Sent
from qg.extenders.files.sender import files_send as files_send
