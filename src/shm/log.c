// Undoing, and where a word lies.
#include "shm/log.h"

pd_status
pd_log_undo(pd_log *log, pd_segment *segment)
{
    uint64_t count = pd_load(&log->count);
    if (count > PD_LOG_ENTRIES) {
        return PD_ECORRUPT;
    }
    while (count-- > 0) {
        uint64_t where = pd_load(&log->entries[count].where);
        pd_word *word = where % sizeof(pd_word) == 0 && pd_log_may_name(where)
                            ? pd_segment_at(segment, where, sizeof(*word))
                            : NULL;
        if (word == NULL) {
            return PD_ECORRUPT;
        }
        PD_CRASH_POINT();
        pd_store(word, pd_load(&log->entries[count].old));
    }
    pd_log_commit(log);
    return PD_OK;
}
