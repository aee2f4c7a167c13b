// Status codes of the core, and the texts that go with them.
//
// Every function of the core that can fail returns a pd_status and writes through
// its out-pointers only on PD_OK.  The core never prints and never exits; the
// binding (py/) turns a status into a Python exception, in one place.
#ifndef PD_BASE_STATUS_H
#define PD_BASE_STATUS_H

typedef enum pd_status {
    PD_OK = 0,
    PD_ENOMEM,     // an allocation failed, or a size overflowed
    PD_EINVAL,     // an argument is outside what the header allows: a caller's bug
    PD_EOS,        // the operating system refused; errno says why
    PD_ECANCELED,  // the caller's poll function, or pd_team_cancel(), ended the work
    PD_EFORKED,    // fork() took the worker threads away in the middle of a loop
    PD_ECLOSED,    // the object was closed
    PD_ETIMEDOUT,  // the deadline passed first
    PD_ECORRUPT,   // shared memory does not hold what it should: damaged or foreign
    PD_EABSENT,    // there is no such key
    PD_ECHANGED,   // the condition of a conditional write does not hold
    PD_ECLAIMED,   // another thread has claimed the key
} pd_status;

// A static English text, never NULL.  Can't fail.
const char *pd_status_text(pd_status status);

#endif
