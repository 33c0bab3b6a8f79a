truncate -s 16M data.img
