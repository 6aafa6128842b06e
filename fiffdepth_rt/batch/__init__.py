"""Many photos -> their depth, here or on a cluster: `fiffdepth batch`. START HERE: work.py.

    places.py    a folder here, or behind an address (s3://, gs://, memory://): list, read, write whole
    photos.py    a folder, an address or a list -> photos, by name
    shards.py    WebDataset tars -> the same tars with depth
    inputs.py    INPUT -> photos or shards
    output.py    what results are called, and what is in their files
    header.py    fiffdepth.json: what every result in OUTPUT is
    work.py      photos -> results, in this process
    on_ray.py    the same by actors on a cluster, each with one Depth
    overlap.py   while one item is computed, the next is read and the one before is written

Nothing is remembered but the results: what is there is passed over, and what is there is whole.
"""
