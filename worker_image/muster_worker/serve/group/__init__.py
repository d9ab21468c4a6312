"""One replica of several processes, in one pod or several: a front that is asked, and ranks that compute."""
