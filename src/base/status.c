// The texts of the status codes: one row a code, in the order of the enum.
#include "base/status.h"

#include <stddef.h>

static const char *const texts[] = {
    [PD_OK] = "no error",
    [PD_ENOMEM] = "out of memory",
    [PD_EINVAL] = "invalid argument",
    [PD_EOS] = "the operating system refused",
    [PD_ECANCELED] = "canceled",
    [PD_EFORKED] = "the process forked while native threads were at work",
    [PD_ECLOSED] = "closed",
    [PD_ETIMEDOUT] = "timed out",
    [PD_ECORRUPT] = "shared memory is damaged, or was made by something else",
    [PD_EABSENT] = "no such key",
    [PD_ECHANGED] = "changed by another",
    [PD_ECLAIMED] = "claimed by another",
};

const char *
pd_status_text(pd_status status)
{
    size_t code = (size_t)status;
    if (code >= sizeof(texts) / sizeof(texts[0]) || texts[code] == NULL) {
        return "unknown status";
    }
    return texts[code];
}
