// PLACEHOLDER
#include "thread/team.h"

pd_status
pd_team_run(unsigned members,
            size_t count,
            pd_team_body body,
            void *job,
            pd_team_poll poll,
            void *poll_arg)
{
    (void)members;
    (void)poll;
    (void)poll_arg;
    for (size_t i = 0; i < count; i++) {
        pd_status status = body(job, i, 0);
        if (status != PD_OK) {
            return status;
        }
    }
    return PD_OK;
}

unsigned
pd_team_threads(void)
{
    return 0;
}

void
pd_team_set_idle_ns(int64_t idle_ns)
{
    (void)idle_ns;
}

void
pd_team_shutdown(void)
{
}
