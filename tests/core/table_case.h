// What the tests of the shared table share: keys that are text, values that are bytes.
#ifndef PD_TESTS_TABLE_CASE_H
#define PD_TESTS_TABLE_CASE_H

#include <string.h>

#include "shm/table.h"

static inline pd_key
text_key(pd_table *table, const char *text)
{
    pd_key key;
    pd_table_key(table, 1, text, strlen(text), 0, &key);
    return key;
}

// Stores bytes of type 9; large ones are staged first.
static inline pd_status
put_bytes(
    pd_table *table, const char *text, const void *data, size_t size, int64_t wait_ns)
{
    pd_key key = text_key(table, text);
    pd_value value = {.type = 9, .size = size, .data = data, .pin = PD_NO_PIN};
    if (size > PD_SMALL_BYTES) {
        void *room;
        pd_status status =
            pd_table_stage(table, &key, size, wait_ns, &room, &value.pin);
        if (status != PD_OK) {
            return status;
        }
        memcpy(room, data, size);
    }
    pd_status status = pd_table_put(table, &key, &value, PD_ALWAYS, 0, wait_ns);
    if (status != PD_OK && value.pin != PD_NO_PIN) {
        pd_table_unpin(table, value.pin);
    }
    return status;
}

#endif
