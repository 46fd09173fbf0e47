/* The password file that PGPASSFILE names. libpq ignores one that its group may read; but that is
 * how systemd (255 and later) provides credentials, and Kubernetes provides secrets. Such a file
 * is copied into memory that no other process can open. main.c calls it. */
#pragma once

/* Before there are threads: may change PGPASSFILE. */
void passfile_open(void);
/* Copies it anew. */
void passfile_refresh(void);
