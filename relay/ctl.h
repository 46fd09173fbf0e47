/* pgherald ctl: send one command to the ops socket of a relay, and print the reply. It needs no
 * other program. main.c calls it instead of running a relay. */
#pragma once

/* argv[0] is "ctl". Returns the exit status of the process: 0; 1: the relay refused the command
 * or did not reply in full; 2: the command line is not valid; 3: there is no relay. */
int ctl(int argc, char **argv);
