// CHECK(condition): says where it failed and ends the test program with status 1.
#ifndef PD_TESTS_CHECK_H
#define PD_TESTS_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                                \
        }                                                                           \
    } while (0)

// RUN(test): names the test that runs, so that a crash or a hang can be placed.
#define RUN(test)                \
    do {                         \
        printf("  %s\n", #test); \
        fflush(stdout);          \
        test();                  \
    } while (0)

#endif
