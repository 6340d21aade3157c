"""Everything that pictures come out of, as one ordered stream: files, folders, films, archives, addresses, cameras,
and what is in memory."""
