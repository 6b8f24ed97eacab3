"""`python -m app.gateway`"""

import sys

from app.gateway.main import main

sys.exit(main())
