// Places where a process may be killed, named so that a test can kill it there.
//
// In test builds the n-th point that is passed sends SIGKILL to the process; elsewhere
// the points are nothing.  They stand between any two stores whose order matters.
#ifndef PD_SHM_CRASH_H
#define PD_SHM_CRASH_H

#ifdef PD_TEST
// The n-th point from now on is fatal; 0 turns it off.
void pd_crash_after(long n);

void pd_crash_point(void);
#    define PD_CRASH_POINT() pd_crash_point()
#else
#    define PD_CRASH_POINT() ((void)0)
#endif

#endif
