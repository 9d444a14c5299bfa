"""Work on a cluster: a command of this machine as a job there, and what runs beside Ray on its machines."""
